"""The experts in PyTorch: each runs on the tokens that were routed to it."""

from __future__ import annotations

from ...compiler.ops.moe import Experts, FusedExperts
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Kernel


class TorchExperts(Kernel):
    name = "torch.experts"
    implements = "experts"
    functions = ("experts",)

    def call(self, op: Experts, *operands: Code, phases: tuple[str, ...]) -> Code:
        return call("experts", *operands, activation=op.activation)


class TorchFusedExperts(Kernel):
    name = "torch.fused_experts"
    implements = "fused_experts"
    functions = ("fused_experts",)

    def call(self, op: FusedExperts, *operands: Code, phases: tuple[str, ...]) -> Code:
        return call("fused_experts", *operands, activation=op.activation)
