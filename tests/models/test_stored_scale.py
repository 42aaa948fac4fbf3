"""A factor on embedded tokens that is one of the weights: rounded as `transformers` rounds it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models.tiny import cases, save
from transformers import AutoModelForCausalLM

Build = Callable[..., Any]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_first_layer_is_given_the_same(
    dtype: torch.dtype, build: Build, tmp_path: Path
) -> None:
    case = cases("gemma2")[0]
    save(case, tmp_path / "checkpoint", dtype=torch.bfloat16)
    package = build(tmp_path / "checkpoint", "O0")
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "checkpoint", dtype=dtype)
    ours = package.load(tmp_path / "checkpoint", dtype=dtype)
    tokens = torch.arange(101)[None]
    found, wanted = (
        given(ours, ours.layers[0], tokens),
        given(theirs, theirs.model.layers[0], tokens),
    )
    assert found.dtype == dtype
    assert torch.equal(found, wanted)
    if dtype == torch.bfloat16:  # where the factor itself is another number
        assert not torch.equal(found, ours.embed[tokens] * case.fields["hidden_size"] ** 0.5)


def given(model: Any, layer: torch.nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Return what a model's layer is given first."""
    seen: list[torch.Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _, operands: seen.append(operands[0]))
    with torch.no_grad():
        model(tokens)
    hook.remove()
    return seen[0]
