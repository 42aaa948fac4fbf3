"""Liger's Triton kernels (https://github.com/linkedin/Liger-Kernel), as of 0.8.5.

All were run in Triton's interpreter, forward and backward, in float32 at small sizes: they differ
from PyTorch in float64 by 4e-7 at most. Its cross-entropy is not asked, since it gives no logarithm
of the sum beside the loss.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

NAME = "Liger"
MODULES = ("liger_kernel",)
INSTALL = "pip install --no-deps liger-kernel"
GRADIENTS = ("fused_experts", "rms_norm", "add_rms_norm", "gated_activation")


def fused_experts(activation: str, **_: Any) -> tuple[Any, Any]:
    """Its tiles are found by Triton's autotuner, in the call before those that are timed."""
    from liger_kernel.ops import LigerFusedMoEFunction

    _only_silu(activation)

    def arranged(x: Tensor, index: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor) -> Any:
        index = index.flatten(0, 1).int()
        return x.flatten(0, 1), index, weight.flatten(0, 1), gate_up.flatten(1, 2), down

    def run(x: Tensor, index: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        return LigerFusedMoEFunction.apply(x, gate_up, down, index, weight)

    return arranged, run


def rms_norm(eps: float, offset: float, **_: Any) -> tuple[Any, Any]:
    from liger_kernel.ops import LigerRMSNormFunction

    def run(x: Tensor, weight: Tensor) -> Tensor:  # not in place: that would spoil the next call
        return LigerRMSNormFunction.apply(x, weight, eps, offset, "llama", False)

    return _as_given, run


def add_rms_norm(eps: float, offset: float, **_: Any) -> tuple[Any, Any]:
    from liger_kernel.ops import LigerFusedAddRMSNormFunction

    def run(x: Tensor, residual: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        apply = LigerFusedAddRMSNormFunction.apply
        y, total = apply(x, residual, weight, eps, offset, "llama", False)
        return total, y

    return _as_given, run


def gated_activation(function: str, **_: Any) -> tuple[Any, Any]:
    from liger_kernel.ops import LigerSiLUMulFunction

    _only_silu(function)
    return _as_given, lambda gate, up: LigerSiLUMulFunction.apply(gate, up)


def _only_silu(activation: str) -> None:
    if activation != "silu":
        raise ValueError(f"it has no {activation}")


def _as_given(*operands: Tensor) -> tuple[Tensor, ...]:
    return operands
