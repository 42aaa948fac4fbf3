"""Emitted drafts against `transformers`: the same logits, in one pass and step by step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models.drafting import hidden_of, save_with_draft
from models.test_oracle import close, same_tensors, seeded
from models.tiny import cases
from safetensors.torch import load_file, save_file

Build = Callable[..., Any]


def test_copies_may_be_left_out_but_not_differ(build: Build, tmp_path: Path) -> None:
    case = cases("deepseek_v3")[0]
    save_with_draft(case, tmp_path)
    package = build(tmp_path, mtp=True)
    plain = build(tmp_path, name="emitted_plain")
    tokens = torch.arange(5)[None]
    with torch.no_grad():
        wanted = package.load(tmp_path)(tokens)
        close(plain.load(tmp_path)(tokens), wanted)  # which drops the layer
    file, at = tmp_path / "model.safetensors", f"model.layers.{case.fields['num_hidden_layers']}."
    whole = load_file(file)
    copies = [
        name for name in whole if name.startswith(at) and ("embed" in name or ".head" in name)
    ]
    assert len(copies) == 2
    for copy in copies:
        save_file({**whole, copy: 2 * whole[copy]}, file)
        with pytest.raises(ValueError, match=f"{copy} differs from"):
            package.load(tmp_path)
    save_file({name: whole[name] for name in whole if name not in copies}, file)
    with torch.no_grad():
        close(package.load(tmp_path)(tokens), wanted)
    save_file({name: whole[name] for name in whole if name != f"{at}eh_proj.weight"}, file)
    with pytest.raises(ValueError, match=rf"missing \(1\):\s+{at}eh_proj.weight"):
        package.load(tmp_path)
    save_file({**whole, "model.layers.4.enorm.weight": torch.ones(1)}, file)
    with pytest.raises(ValueError, match=r"unexpected \(1\)"):
        package.load(tmp_path)


@pytest.mark.parametrize("pipeline", ["O0", "O1", "O2"])
def test_drafts_are_those_of_the_reference(pipeline: str, build: Build, tmp_path: Path) -> None:
    title = {"O0": "plain", "O1": "tied", "O2": "yarn"}[pipeline]
    (case,) = [case for case in cases("deepseek_v3") if case.title == title]
    reference, draft = save_with_draft(case, tmp_path / "checkpoint")
    tokens = torch.randint(case.fields["vocab_size"], (2, 11), generator=seeded())
    hidden = hidden_of(reference, tokens)
    wanted = draft(tokens[:, 1:], hidden[:, :-1])
    further = draft(tokens[:, 1:], wanted)  # a draft of its own drafts, as one goes further
    head = reference.lm_head.weight

    package = build(tmp_path / "checkpoint", pipeline, mtp=True)
    model = package.load(tmp_path / "checkpoint")
    with torch.no_grad():
        logits, drafts = model.forecast(tokens)
    close(logits, hidden @ head.T)
    close(drafts, wanted @ head.T)
    with torch.no_grad():
        close(model.draft(tokens[:, 1:], wanted), further)

    cache, draft_cache = model.new_cache(2, 11), model.new_draft_cache(2, 10)
    close(model.hidden(tokens[:, :6], cache), hidden[:, :6])
    close(model.draft(tokens[:, 1:6], hidden[:, :5], draft_cache), wanted[:, :5])
    for t in range(6, 11):
        close(
            model.draft(tokens[:, t, None], hidden[:, t - 1, None], draft_cache)[:, 0],
            wanted[:, t - 1],
        )
        close(model.hidden(tokens[:, t, None], cache)[:, 0], hidden[:, t])
    assert draft_cache.lengths.tolist() == [10, 10]

    package.save(model, tmp_path / "again")
    same_tensors(tmp_path / "checkpoint", tmp_path / "again")
