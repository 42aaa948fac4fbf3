"""The gradients of the choice of experts are those of the experts that its kernel chose."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
import torch
from archsmith.compiler.driver import Compiler

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_gradients_are_of_the_experts_that_were_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are equally good, and PyTorch would choose others than the kernel did."""
    compiler = Compiler.installed("h200", numeric=False)
    pipeline, passes = compiler.passes("O2")
    spec = compiler.load(EXAMPLES / "tiny-deepseek-v3.yaml")
    compiler.package(spec, tmp_path / "chosen", pipeline, passes, prove=False)
    monkeypatch.syspath_prepend(tmp_path)
    router = importlib.import_module("chosen.kernels").fused_router
    x, weight = torch.randn(1, 4, 80), torch.zeros(16, 80, requires_grad=True)
    rules = "sigmoid", 2, 4, 2, "top2_sum", True, 2.5
    index, share = router.registered(x, weight, None, *rules)
    assert not torch.equal(index, router.reference(x, weight, None, *rules)[0])

    (share * torch.tensor([1.0, -1.0])).sum().backward()
    logits = torch.zeros(1, 4, 16, requires_grad=True)
    scores = logits.sigmoid().gather(-1, index)
    wanted = 2.5 * scores / scores.sum(-1, keepdim=True)
    (wanted * torch.tensor([1.0, -1.0])).sum().backward()
    assert logits.grad is not None
    torch.testing.assert_close(weight.grad, torch.einsum("bte,btd->ed", logits.grad, x))
