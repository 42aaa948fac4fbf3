"""The experts in PyTorch where nothing may depend on values: all of them, on every token."""

from __future__ import annotations

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.experts import Experts, ExpertsOp, FusedExperts
from ...compiler.schedule.code import Code
from ...compiler.schedule.kernel import Kernel
from .experts import expert_call


class TorchDenseExperts(Kernel):
    name = "torch.dense_experts"
    implements = "experts"
    functions = ("dense_experts",)

    def refuses(
        self, op: ExpertsOp, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        return _refusal(target)

    def cost(
        self, op: ExpertsOp, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        return _cost(op, operands, sizes)

    def call(self, op: Experts, *operands: Code, phases: tuple[str, ...]) -> Code:
        return expert_call("dense_experts", op, operands)


class TorchDenseFusedExperts(Kernel):
    name = "torch.dense_fused_experts"
    implements = "fused_experts"
    functions = ("dense_fused_experts",)

    def refuses(
        self, op: ExpertsOp, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        return _refusal(target)

    def cost(
        self, op: ExpertsOp, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        return _cost(op, operands, sizes)

    def call(self, op: FusedExperts, *operands: Code, phases: tuple[str, ...]) -> Code:
        return expert_call("dense_fused_experts", op, operands)


def _refusal(target: Target) -> str | None:
    if "traced" not in target.features:
        return "every token would run every expert, and the target need not be traced"
    return None


def _cost(op: ExpertsOp, operands: tuple[TensorType, ...], sizes: Sizes) -> Cost:
    """Three products for every expert and token; all weights are read."""
    flops = 2 * 3 * sizes.rows * sizes.count(op.down(operands))
    moved = (*operands, *op.types(*operands))
    return Cost(flops=flops, bytes=sum(map(sizes.bytes, moved)), launches=1)
