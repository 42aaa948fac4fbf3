"""Longrope where contexts stay short, and what a checkpoint may say of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from archsmith.compiler.driver import Compiler
from models.oracle import logits
from models.test_oracle import close
from models.tiny import cases, save
from transformers import AutoConfig

Build = Callable[..., Any]


def test_one_checkpoint_short_and_long(build: Build, tmp_path: Path) -> None:
    """The same weights where no context passes the original length: the other factors."""
    (case,) = (case for case in cases("phi3") if case.title == "gain")
    folder = tmp_path / "checkpoint"
    reference = save(case, folder, dtype=torch.float32)
    config = json.loads((folder / "config.json").read_text())
    assert config["original_max_position_embeddings"] == 12

    brief = tmp_path / "brief"
    brief.mkdir()
    (brief / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 12}))
    package = build(brief, "O2")
    model = package.load(folder, dtype=torch.float64)
    tokens = torch.randint(101, (2, 12), generator=torch.Generator().manual_seed(5))
    wanted = logits(reference, tokens)
    with torch.no_grad():
        close(model(tokens), wanted)
    cache = model.new_cache(2, 12)
    close(model.prefill(tokens[:, :7], cache), wanted[:, 6])
    for t in range(7, 12):
        close(model.decode(tokens[:, t], cache), wanted[:, t])
    # In transformers, one token more changes what all that stand before it are.
    longer = logits(reference, torch.cat((tokens, tokens[:, :1]), 1))[:, :12]
    assert (longer - wanted).abs().max() > 1e-3

    package.save(package.load(folder), tmp_path / "again")
    again, first = (AutoConfig.from_pretrained(tmp_path / x) for x in ("again", "checkpoint"))
    assert again.rope_parameters.items() <= first.rope_parameters.items()
    assert again.original_max_position_embeddings == 12


def test_a_package_is_proved(compiler: Compiler, tmp_path: Path) -> None:
    """At probes, where pairs are more than factors, or fewer."""
    (case,) = (case for case in cases("phi3") if case.title == "part")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "phi3", **case.fields}))
    text, warnings = compiler.read_configuration(tmp_path, "model")
    assert "E0312" in warnings
    page = tmp_path / "model.yaml"
    page.write_text(text)
    report = compiler.package(compiler.load(page), tmp_path / "emitted", *compiler.passes("O2"))
    assert report.proof is not None
    code = (tmp_path / "emitted" / "model.py").read_text()
    assert re.search(r'kind="longrope",\s+factors=\(7\.0, 20\.0, 31\.5\),\s+gain=1\.4', code)


def test_other_factors_are_another_model(build: Build, tmp_path: Path) -> None:
    (case,) = (case for case in cases("phi3") if case.title == "long")
    folder = tmp_path / "checkpoint"
    save(case, folder, dtype=torch.float32)
    package = build(folder, "O0")
    config = json.loads((folder / "config.json").read_text())
    new = config.pop("rope_parameters")
    lists = {name: new[name] for name in ("short_factor", "long_factor")}

    def load(**fields: Any) -> None:
        rope = {"type": "su", **lists} | fields.pop("rope", {})
        (folder / "config.json").write_text(json.dumps(config | {"rope_scaling": rope} | fields))
        package.load(folder)

    load()  # as configurations had it at first
    load(rope={"type": "longrope", "factor": 32.0, "original_max_position_embeddings": 4})
    load(rope={"attention_factor": (1 + 5 / 2) ** 0.5})
    for what, fields in {
        r"long_factor: \[1.0, 1.0": {"rope": {"long_factor": [1.0] * 7}},
        "factor: 16.0, not 32": {"max_position_embeddings": 64},
        "attention_factor: 1.5, not 1.87": {"rope": {"attention_factor": 1.5}},
        "rope_type: 'default', not 'longrope'": {"rope_scaling": None},
        "original_max_position_embeddings: 8, not 4": {"original_max_position_embeddings": 8},
    }.items():
        with pytest.raises(ValueError, match=what):
            load(**fields)
