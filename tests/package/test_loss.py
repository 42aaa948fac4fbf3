"""The loss of a model: that of its logits, gradients too, with no tensor that could hold these."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from package.tiny import Build, fresh, prompt
from torch.utils._python_dispatch import TorchDispatchMode

EXACT = {"rtol": 1e-10, "atol": 1e-12}  # float64, sums of a few hundred terms


HEADS = {
    "tied": "{tied: true}",
    "plain": "{tied: false}",
    "capped": "{tied: true, softcap: 1.5, scale: 0.7}",
    "biased": "{tied: false, bias: true}",
}
WORDS = 1511  # more than any layer is wide


@pytest.fixture(params=HEADS)
def built(package: Build, request: pytest.FixtureRequest) -> ModuleType:
    def change(page: str, /) -> str:
        page = page.replace("vocab_size: 311", f"vocab_size: {WORDS}")
        return page.replace("head: {tied: true}", f"head: {HEADS[request.param]}")

    return package("tiny-llama", change, f"tiny_llama_{request.param}")


def narrow(built: ModuleType, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Take so much of the vocabulary at a time."""
    file = sys.modules.get(f"{built.__name__}.kernels.linear_cross_entropy")
    if file is not None:
        monkeypatch.setattr(file, "COLUMNS", columns)


def targets_of(tokens: torch.Tensor) -> torch.Tensor:
    targets = F.pad(tokens[:, 1:], (0, 1), value=-100)
    targets[0, :2] = -100
    return targets


class Sizes(TorchDispatchMode):
    """Keeps the most elements that any result has."""

    most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else (made,):
            if isinstance(tensor, torch.Tensor):
                self.most = max(self.most, tensor.numel())
        return made


def test_it_is_the_loss_of_the_logits(built: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokens = fresh(built), prompt(built, 3)
    targets, weights = targets_of(tokens), list(model.parameters())
    logits = model(tokens).flatten(0, 1)
    wanted = F.cross_entropy(logits, targets.flatten())
    each = F.cross_entropy(logits, targets.flatten(), reduction="none").view(targets.shape)
    gradients = torch.autograd.grad(wanted, weights, retain_graph=True)
    upstream = torch.rand(targets.shape, dtype=torch.float64)
    weighed = torch.autograd.grad(each, weights, upstream)
    for columns in (4096, 400):
        narrow(built, columns, monkeypatch)
        found = model.loss(tokens, targets)
        torch.testing.assert_close(found, wanted, **EXACT)
        for x, y in zip(torch.autograd.grad(found, weights), gradients, strict=True):
            torch.testing.assert_close(x, y, **EXACT)
        found = model.loss(tokens, targets, reduction="none")
        torch.testing.assert_close(found, each, **EXACT)
        for x, y in zip(torch.autograd.grad(found, weights, upstream), weighed, strict=True):
            torch.testing.assert_close(x, y, **EXACT)


def test_no_logits_are_in_memory(built: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """But where the head has a bias, which the docstring says."""
    model, tokens = fresh(built, torch.bfloat16), prompt(built, 3)
    tokens = tokens.repeat(8, 4)
    narrow(built, 300, monkeypatch)
    with Sizes() as whole:
        model.loss(tokens, targets_of(tokens)).backward()
    fused = hasattr(sys.modules[f"{built.__name__}.kernels"], "linear_cross_entropy")
    assert fused == ("biased" not in built.__name__)
    assert (whole.most < tokens.numel() * WORDS) == fused
    assert ("all logits are in memory" in model.loss.__doc__) == (not fused)
    loss = model.loss(tokens, targets_of(tokens))
    assert loss.dtype == torch.float32
    logits = model(tokens).flatten(0, 1).float()
    torch.testing.assert_close(loss, F.cross_entropy(logits, targets_of(tokens).flatten()))


def test_where_nothing_counts(package: Build) -> None:
    """As of PyTorch's: a mean of nothing is no number, and moves nothing."""
    built = package("tiny-llama")
    model, tokens = fresh(built), prompt(built, 2)
    targets = torch.full_like(tokens, -100)
    assert not model.loss(tokens, targets, reduction="none").any()
    loss = model.loss(tokens, targets)
    assert loss.isnan()
    loss.backward()
    assert not any(weight.grad.any() for weight in model.parameters())


def test_gradients_by_differences(package: Build, monkeypatch: pytest.MonkeyPatch) -> None:
    built = package("tiny-llama")
    function = sys.modules[f"{built.__name__}.kernels"].linear_cross_entropy
    narrow(built, 3, monkeypatch)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(7, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[0, 6, -100], [3, 2, 1]])
    for scale, softcap in ((1.0, None), (0.7, 2.0)):
        assert torch.autograd.gradcheck(
            lambda x, w, scale=scale, cap=softcap: function(x, w, targets, scale, cap), (x, weight)
        )


def test_what_is_no_target(package: Build) -> None:
    built = package("tiny-llama")
    model, tokens = fresh(built), prompt(built, 2)
    with pytest.raises(ValueError, match=r'reduction must be "mean" or "none", got \'sum\''):
        model.loss(tokens, tokens, reduction="sum")
    with pytest.raises(ValueError, match=r"targets must be int64 \[2, \d+\], got int64 \[2, \d+\]"):
        model.loss(tokens, tokens[:, 1:])
    with pytest.raises(ValueError, match=r"targets must be int64 .*, got float64"):
        model.loss(tokens, tokens.double())
    with pytest.raises(ValueError, match=r"is outside 0\.\.310"):
        model.loss(tokens, tokens - 1000)
