"""The choice of experts in PyTorch."""

from __future__ import annotations

from ...compiler.ops.moe import Route
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Kernel


class TorchRoute(Kernel):
    name = "torch.route"
    implements = "route"
    functions = ("route",)

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
