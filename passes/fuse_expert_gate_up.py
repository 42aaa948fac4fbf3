"""Fuse the gate and up weights of a layer's experts into one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..compiler.ir.dims import TWO
from ..compiler.ir.graph import Value
from ..compiler.ir.weights import Concat, Indexed, Unflatten
from ..compiler.ops.moe import Experts
from ..compiler.rewrite.pattern import RewritePass
from ..compiler.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class FuseExpertGateUp(RewritePass):
    """One matrix product an expert for gate and up, instead of two.

        %y = experts(%x, %index, %weight, %gate, %up, %down)
        ->
        %y = fused_experts(%x, %index, %weight, %gate_up, %down)

    Every expert's `gate_up` is [2, F, D], the gate first.
    """

    name = "fuse-expert-gate-up"

    def pattern(
        self, op: Any, x: Any, index: Any, weight: Any, gate: Any, up: Any, down: Any
    ) -> Any:
        return op.experts(x, index, weight, gate, up, down, bind="experts")

    def check(self, *, rewriter: Rewriter, gate: Value, up: Value, **_: Any) -> str | None:
        for value in (gate, up):
            if not rewriter.is_param(value):
                return f"%{value.name} is computed, not a parameter"
            if not isinstance(rewriter.program(value), Indexed):
                return f"%{value.name} is not made expert by expert"
        first, second = rewriter.program(gate), rewriter.program(up)
        if type(first) is not type(second):
            return f"of %{gate.name} and %{up.name}, one is packed and one is not"
        return None

    def rewrite(
        self,
        op: Any,
        *,
        rewriter: Rewriter,
        x: Value,
        index: Value,
        weight: Value,
        gate: Value,
        up: Value,
        down: Value,
        experts: Experts,
    ) -> Any:
        first, second = rewriter.program(gate), rewriter.program(up)
        assert isinstance(first, Indexed)  # as `check` saw
        assert isinstance(second, Indexed)
        rows = Concat((first.body, second.body), 0)
        both = Unflatten(rows, 0, (TWO, first.body.shape[0]))
        fused = type(first)(both, first.index, first.count)
        gate_up = rewriter.param(gate.name.replace("gate", "gate_up"), fused)
        return op.fused_experts(x, index, weight, gate_up, down, activation=experts.activation)
