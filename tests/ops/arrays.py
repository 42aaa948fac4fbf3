"""Arrays to compute with, and how close to each other two results of float64 must be."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

TIGHT = 1e-12  # float64, sums of a few dozen terms


def normal(seed: int, *shape: int) -> Any:
    return np.random.default_rng(seed).standard_normal(shape)


def same(got: Any, wanted: Any, tolerance: float = TIGHT) -> None:
    np.testing.assert_allclose(got, np.asarray(wanted), rtol=tolerance, atol=tolerance)


def tensor(array: Any) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array))


THEIRS = {
    "silu": F.silu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}
