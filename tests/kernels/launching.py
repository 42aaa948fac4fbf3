"""Kernels that a package launches on a GPU, launched in Triton's interpreter."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
import torch

FEW = 12  # tokens of a call: all tiles are tried where kernels are


def launching(function: Any, calls: list[str]) -> Callable[..., Any]:
    """A kernel's function that launches for float32, as it would on a GPU, and keeps count; so does
    what runs in its place, if that is another kernel's."""
    if not hasattr(function, "registered"):
        return function

    def call(x: torch.Tensor, *others: Any, **options: Any) -> Any:
        if x.dtype == torch.float64:
            return function(x, *others, **options)
        calls.append(function.__name__)
        return function.registered(x, *others, **options)

    call.__name__ = function.__name__
    call.reference = launching(function.reference, calls)
    return call


def as_on_a_gpu(tests: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let what tries a package's kernels launch them here, in calls of few tokens; gives the names
    of those it launches."""
    calls: list[str] = []
    whole = tests.TritonTest.calls

    def few(self: Any, calls: Any, **options: Any) -> Any:
        return whole(self, [call for call in calls if call[0] * call[1] <= FEW], **options)

    monkeypatch.setattr(tests, "DEVICE", "cpu")
    monkeypatch.setattr(tests.TritonTest, "calls", few)
    for key, function in list(vars(tests).items()):
        if hasattr(function, "registered"):
            monkeypatch.setattr(tests, key, launching(function, calls))
    return calls
