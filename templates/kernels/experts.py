"""The experts in PyTorch: each runs on the tokens that were routed to it."""

from __future__ import annotations

from ...compiler.ir.op import Op
from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.moe import Experts, FusedExperts
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Kernel


class TorchExperts(Kernel):
    name = "torch.experts"
    implements = "experts"
    functions = ("experts",)

    def refuses(self, op: Op, operands: tuple[TensorType, ...], target: Target) -> str | None:
        return _refusal(target)

    def call(self, op: Experts, *operands: Code, phases: tuple[str, ...]) -> Code:
        return call("experts", *operands, activation=op.activation)


class TorchFusedExperts(Kernel):
    name = "torch.fused_experts"
    implements = "fused_experts"
    functions = ("fused_experts",)

    def refuses(self, op: Op, operands: tuple[TensorType, ...], target: Target) -> str | None:
        return _refusal(target)

    def call(self, op: FusedExperts, *operands: Code, phases: tuple[str, ...]) -> Code:
        return call("fused_experts", *operands, activation=op.activation)


def _refusal(target: Target) -> str | None:
    if "traced" in target.features:
        return "how many tokens an expert has is known only as it runs, and the target is traced"
    return None
