"""PyTorch's grouped product, `torch.nn.functional.grouped_mm` (2.10 and newer), with a sort."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .by_expert import by_expert, mixed

NAME = "torch grouped_mm"
MODULES = ("torch",)
INSTALL = "pip install torch"
GRADIENTS = ("fused_experts",)


def fused_experts(activation: str, **_: Any) -> tuple[Any, Any]:
    if activation != "silu":
        raise ValueError(f"it has no {activation}")
    return arranged, experts


def arranged(x: Tensor, index: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor) -> Any:
    return x.flatten(0, 1), index.flatten(0, 1), weight.flatten(0, 1), gate_up.flatten(1, 2), down


def experts(x: Tensor, index: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    order, _, ends = by_expert(index, len(down))
    both = F.grouped_mm(x[order // index.shape[1]], gate_up.mT, offs=ends)
    gate, up = both.chunk(2, -1)
    return mixed(F.grouped_mm(F.silu(gate) * up, down.mT, offs=ends), order, weight)


def compiled(activation: str, **_: Any) -> tuple[Any, Any]:
    """The same by torch.compile, for `grouped_mm_compiled`."""
    _, function = fused_experts(activation)
    return arranged, torch.compile(function, dynamic=False)
