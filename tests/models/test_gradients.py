"""Training against `transformers`: the gradient of every tensor of a checkpoint, in float64."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from models.oracle import Float64
from models.test_oracle import First, seeded
from models.tiny import FAMILIES, cases
from safetensors.torch import load_file

EXACT = 1e-7  # of a tensor's largest gradient; errors seen are near 1e-14


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_are_those_of_transformers(family: str, first: First, tmp_path: Path) -> None:
    case = cases(family)[0]
    tokens = torch.randint(case.fields["vocab_size"], (2, 14), generator=seeded())
    wanted: dict[str, torch.Tensor] = {}
    for pipeline in ("O0", "O2"):
        package, folder, reference = first(case, pipeline)
        if not wanted:
            reference = copy.deepcopy(reference)
            with Float64():
                loss(reference(tokens, use_cache=False).logits, tokens).backward()
            becomes_its_gradients(reference)
            reference.save_pretrained(tmp_path / "wanted")
            wanted = tensors_of(tmp_path / "wanted")
            still = [name for name, gradient in wanted.items() if not gradient.any()]
            assert all(".experts." in name or "correction_bias" in name for name in still)
            assert len(still) < len(wanted) / 4  # an expert may have no token
        model = package.load(folder, dtype=torch.float64)
        if pipeline == "O0":
            loss(model(tokens), tokens).backward()
        else:  # the same, without the logits
            model.loss(tokens, F.pad(tokens[:, 1:], (0, 1), value=-100)).backward()
        becomes_its_gradients(model)
        package.save(model, tmp_path / pipeline)
        found = tensors_of(tmp_path / pipeline)
        assert found.keys() == wanted.keys()
        for name, gradient in wanted.items():
            assert (found[name] - gradient).abs().max() <= EXACT * gradient.abs().max(), name


def loss(logits: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Return the mean cross entropy of each next token."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())


@torch.no_grad()
def becomes_its_gradients(model: torch.nn.Module) -> None:
    """Write each gradient in the place of its weight, so that saving the model names them."""
    for weight in model.parameters():
        weight.copy_(torch.zeros_like(weight) if weight.grad is None else weight.grad)
    for buffer in model.buffers():
        buffer.zero_()


def tensors_of(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for f in folder.glob("*.safetensors") for k, v in load_file(f).items()}
