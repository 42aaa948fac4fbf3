"""Fuse the gate and up projections of a gated MLP into one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..compiler.ir.dims import TWO
from ..compiler.ir.graph import Value
from ..compiler.ir.weights import Concat, Unflatten
from ..compiler.ops.elementwise import Activation
from ..compiler.ops.linear import Einsum
from ..compiler.rewrite.pattern import RewritePass
from ..compiler.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class FuseGateUp(RewritePass):
    """Read the input once, and launch one matrix product instead of two.

        %g = einsum(%x, %gate)                %h = einsum(%x, %gate_up)
        %u = einsum(%x, %up)             ->   %g, %u = unbind(%h)
        %y = mul(activation(%g), %u)          %y = mul(activation(%g), %u)

    `gate_up` is [2, F, D], the gate first, so that a device may hold a part of the F rows of both.
    """

    name = "fuse-gate-up"

    def pattern(self, op: Any, x: Any, gate: Any, up: Any) -> Any:
        g = op.einsum(x, gate, bind="by_gate")
        u = op.einsum(x, up, bind="by_up")
        return op.mul(op.activation(g, bind="activation"), u)

    def check(
        self,
        *,
        rewriter: Rewriter,
        gate: Value,
        up: Value,
        by_gate: Einsum,
        by_up: Einsum,
        **_: Any,
    ) -> str | None:
        for weight in (gate, up):
            if not rewriter.is_param(weight):
                return f"%{weight.name} is computed, not a parameter"
            if len(rewriter.graph.users(weight)) > 1:
                return f"%{weight.name} is read more than once"
        if by_gate != by_up:
            return f"the gate is {by_gate.equation}, up is {by_up.equation}"
        if by_gate.equation != "btd,fd->btf":
            return f"{by_gate.equation} is no linear layer"
        if gate.type != up.type:
            return f"the gate is {gate.type}, up is {up.type}"
        return None

    def rewrite(
        self,
        op: Any,
        *,
        rewriter: Rewriter,
        x: Value,
        gate: Value,
        up: Value,
        activation: Activation,
        **_: Any,
    ) -> Any:
        rows = Concat((rewriter.program(gate), rewriter.program(up)), 0)
        both = Unflatten(rows, 0, (TWO, gate.type.row[0]))
        weight = rewriter.param(gate.name.replace("gate", "gate_up"), both)
        hidden = op.einsum(x, weight, equation="btd,gfd->btgf")
        g, u = op.unbind(hidden, axis=-2, name=("gate", "up"))
        return op.mul(rewriter.add(activation, g), u)
