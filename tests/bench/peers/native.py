"""PyTorch's own fused functions: `torch.nn.functional.rms_norm`."""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

NAME = "torch F.rms_norm"
MODULES = ("torch",)
INSTALL = "pip install torch"
GRADIENTS = ("rms_norm",)


def rms_norm(eps: float, offset: float, **_: Any) -> tuple[Any, Any]:
    if offset:
        raise ValueError("it adds nothing to a weight")

    def run(x: Tensor, weight: Tensor) -> Tensor:
        return F.rms_norm(x, weight.shape, weight, eps)

    return lambda *operands: operands, run
