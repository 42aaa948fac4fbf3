"""The steps of `transformers` that whole models are timed beside: they go on, and are set back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from bench import eager_transformers
from models.tiny import base


@pytest.mark.parametrize("family", ["llama", "mistral"])
def test_steps(family: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(base(family) | {"model_type": family}))
    model = eager_transformers.model(tmp_path, "cpu", torch.float32)
    assert next(model.parameters()).dtype == torch.float32
    step, back = eager_transformers.decoding(model, rows=2, context=7)
    token, told = torch.tensor([1, 2]), []
    for _ in range(2):
        back()
        first = step(token)
        second = step(first)
        assert (second.shape, second.dtype) == ((2,), torch.int64)
        told.append(torch.stack((first, second)))
    if family == "llama":
        assert torch.equal(*told)
