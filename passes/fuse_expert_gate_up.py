"""Fuse the gate and up weights of a layer's experts into one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..compiler.ir.dims import TWO, Dim
from ..compiler.ir.graph import Value
from ..compiler.ir.moves import joined, unflattened
from ..compiler.ir.weights import Concat, Each, Indexed, Program
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
        if isinstance(rewriter.program(gate), Each) != isinstance(rewriter.program(up), Each):
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
        both = _both(rewriter.program(gate), rewriter.program(up))
        gate_up = rewriter.param(gate.name.replace("gate", "gate_up"), both)
        return op.fused_experts(x, index, weight, gate_up, down, **experts.attributes())


def _both(gate: Program, up: Program) -> Program:
    """Gate and up, both [E, F, D], as [E, 2, F, D]: an expert's where experts are told apart."""
    match gate, up:
        case Indexed(first, index, count), Indexed(second) if type(gate) is type(up):
            rows = joined((first, second), 0)
            return type(gate)(unflattened(rows, 0, (TWO, first.shape[0])), index, count)
        case Concat(firsts, 0), Concat(seconds, 0) if _shapes(firsts) == _shapes(seconds):
            return Concat(tuple(map(_both, firsts, seconds)), 0)
    return unflattened(joined((gate, up), 1), 1, (TWO, gate.shape[1]))


def _shapes(programs: tuple[Program, ...]) -> list[tuple[Dim, ...]]:
    return [program.shape for program in programs]
