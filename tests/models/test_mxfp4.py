"""A checkpoint in MXFP4: dequantized to the bit as `transformers` does it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from models.tiny import Case, base, save
from package.quantized import MXFP4, SINGLE, experts_in_mxfp4
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Mxfp4Config


def test_it_is_loaded_as_transformers_loads_it(build: Callable[..., Any], tmp_path: Path) -> None:
    fields = base("gpt_oss") | {"hidden_size": 96, "intermediate_size": 64}
    source = tmp_path / "checkpoint"
    save(Case("gpt_oss", "mxfp4", fields), source, dtype=torch.bfloat16)
    tensors = experts_in_mxfp4(load_file(source / SINGLE))
    for name in (name for name in tensors if name.endswith("_scales")):
        tensors[name][0, 0, :2] = torch.tensor([0, 254], dtype=torch.uint8)
    save_file(tensors, source / SINGLE, metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"quantization_config": MXFP4}))

    package = build(source)
    package.save(package.load(source), tmp_path / "again")
    found = load_file(tmp_path / "again" / SINGLE)
    theirs = AutoModelForCausalLM.from_pretrained(
        source, dtype=torch.bfloat16, quantization_config=Mxfp4Config(dequantize=True)
    )
    wanted = theirs.state_dict()
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name
    assert any(tensor.isinf().any() for tensor in wanted.values())
