"""The experts in PyTorch where nothing may depend on values: all of them, on every token."""

from __future__ import annotations

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.op import Op
from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.moe import Experts, FusedExperts
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Kernel


class TorchDenseExperts(Kernel):
    name = "torch.dense_experts"
    implements = "experts"
    functions = ("dense_experts",)

    def refuses(self, op: Op, operands: tuple[TensorType, ...], target: Target) -> str | None:
        return _refusal(target)

    def cost(self, op: Op, operands: tuple[TensorType, ...], sizes: Sizes, target: Target) -> Cost:
        return _cost(op, operands, sizes)

    def call(self, op: Experts, *operands: Code, phases: tuple[str, ...]) -> Code:
        return call("dense_experts", *operands, activation=op.activation)


class TorchDenseFusedExperts(Kernel):
    name = "torch.dense_fused_experts"
    implements = "fused_experts"
    functions = ("dense_fused_experts",)

    def refuses(self, op: Op, operands: tuple[TensorType, ...], target: Target) -> str | None:
        return _refusal(target)

    def cost(self, op: Op, operands: tuple[TensorType, ...], sizes: Sizes, target: Target) -> Cost:
        return _cost(op, operands, sizes)

    def call(self, op: FusedExperts, *operands: Code, phases: tuple[str, ...]) -> Code:
        return call("dense_fused_experts", *operands, activation=op.activation)


def _refusal(target: Target) -> str | None:
    if "traced" not in target.features:
        return "every token would run every expert, and the target need not be traced"
    return None


def _cost(op: Op, operands: tuple[TensorType, ...], sizes: Sizes) -> Cost:
    """Three products for every expert and token; all weights are read."""
    flops = 2 * 3 * sizes.rows * sizes.count(operands[-1])  # down [E, D, F]
    moved = (*operands, *op.types(*operands))
    return Cost(flops=flops, bytes=sum(map(sizes.bytes, moved)), launches=1)
