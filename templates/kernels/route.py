"""The choice of experts in PyTorch."""

from __future__ import annotations

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.moe import Route
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Kernel


class TorchRoute(Kernel):
    name = "torch.route"
    implements = "route"
    functions = ("route",)

    def cost(
        self, op: Route, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """Scores, the best and their weights; more steps for a bias, groups, a sum and a scale."""
        groups = 8 if op.top_groups.size < op.groups.size else 0
        further = len(operands) - 1 + groups + 3 * op.normalize + (op.scale != 1.0)
        return op.cost(sizes, *operands) + Cost(launches=3 + further)

    def call(
        self, op: Route, logits: Code, bias: Code | None = None, *, phases: tuple[str, ...]
    ) -> Code:
        operands = [logits] if bias is None else [logits, bias]
        groups = {
            "groups": int(op.groups),
            "top_groups": int(op.top_groups),
            "group_score": op.group_score,
        }
        return call(
            "route",
            *operands,
            score=op.score,
            top_k=int(op.top_k),
            **(groups if int(op.groups) > 1 else {}),
            normalize=op.normalize,
            **({} if op.scale == 1.0 else {"scale": op.scale}),
        )
