"""The choice of experts in PyTorch, from logits or from what they are made of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.moe import Route, Router, Routing
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Kernel, Use


class TorchRoute(Kernel):
    name = "torch.route"
    implements = "route"
    functions = ("route",)

    def cost(
        self, op: Route, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        return op.cost(sizes, *operands) + Cost(launches=_steps(op, len(operands) > 1))

    def call(
        self, op: Route, logits: Code, bias: Code | None = None, *, phases: tuple[str, ...]
    ) -> Code:
        operands = [logits] if bias is None else [logits, bias]
        return call("route", *operands, **rules(op))

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return {"shifted": shifted(uses)}


class TorchRouter(Kernel):
    name = "torch.router"
    implements = "router"
    functions = ("router",)

    def cost(
        self, op: Router, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """What is widened, and the logits, are written and read once more."""
        x, weight, *bias = operands
        factors = operands if op.bias_of == "logits" else (x, weight)
        widened = [operand.wide for operand in factors if operand != operand.wide]
        between = [*widened, x.wide.last(weight.row[0])]
        launches = len(widened) + 1 + _steps(op, bool(bias) and op.bias_of == "choice")
        moved = 2 * sum(map(sizes.bytes, between))
        return op.cost(sizes, *operands) + Cost(bytes=moved, launches=launches)

    def call(
        self,
        op: Router,
        x: Code,
        weight: Code,
        bias: Code | None = None,
        *,
        phases: tuple[str, ...],
    ) -> Code:
        operands = [x, weight] if bias is None else [x, weight, bias]
        return call("router", *operands, **rules(op))

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return {"shifted": shifted(uses)}


def shifted(uses: tuple[Use, ...]) -> bool:
    """Whether logits have a bias anywhere."""
    return any(isinstance(use.op, Router) and use.op.bias_of == "logits" for use in uses)


def _steps(op: Routing, bias: bool) -> int:
    """Scores, the best and their weights; more for a bias, groups, a sum, a scale and others."""
    groups = 8 if op.top_groups.size < op.groups.size else 0
    always = 4 if op.always.size else 0
    return 3 + bias + groups + 3 * op.normalize + (op.scale != 1.0) + always


def rules(op: Routing) -> dict[str, Any]:
    """The attributes as keywords, without those that say nothing."""
    groups = {
        "groups": int(op.groups),
        "top_groups": int(op.top_groups),
        "group_score": op.group_score,
    }
    weight = {} if op.always_weight == 1.0 else {"always_weight": op.always_weight}
    return {
        "score": op.score,
        "top_k": int(op.top_k),
        **(groups if int(op.groups) > 1 else {}),
        "normalize": op.normalize,
        **({} if op.scale == 1.0 else {"scale": op.scale}),
        **({"always": int(op.always), **weight} if int(op.always) else {}),
        **({"bias_of": op.bias_of} if isinstance(op, Router) and op.bias_of != "choice" else {}),
    }
