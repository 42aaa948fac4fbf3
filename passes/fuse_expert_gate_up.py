"""Fuse the gate and up weights of a layer's experts into one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..compiler.ir.dims import TWO, Dim
from ..compiler.ir.graph import Value
from ..compiler.ir.moves import joined, unflattened
from ..compiler.ir.weights import Concat, Each, Indexed, Program
from ..compiler.ops.experts import Experts
from ..compiler.rewrite.passes import StepwisePass
from ..compiler.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class FuseExpertGateUp(StepwisePass):
    """One matrix product an expert for gate and up, instead of two.

        %y = experts(%x, %index, %weight, %gate, %up, %down)
        ->
        %y = fused_experts(%x, %index, %weight, %gate_up, %down)

    Every expert's `gate_up` is [2, F, D], the gate first; its biases, where it has some, [2, F].
    """

    name = "fuse-expert-gate-up"

    def applications(self, rewriter: Rewriter) -> Iterator[None]:
        for node in list(rewriter.graph.nodes()):
            if not isinstance(node.op, Experts):
                continue
            x, index, weight, gate, up, down, *biases = rewriter.graph.operands(node)
            pairs = [(gate, up), *([(biases[0], biases[1])] if biases else [])]
            reason = next(filter(None, (_apart(rewriter, *pair) for pair in pairs)), None)
            if reason is not None:
                rewriter.refuse(node, reason)
                continue
            rewriter.beside(node.results[0])
            gate_up, *both = (_fused(rewriter, *pair) for pair in pairs)
            made = rewriter.op.fused_experts(
                *(x, index, weight, gate_up, down, *both, *biases[2:]), **node.op.attributes()
            )
            rewriter.replace(node.results, [made])
            yield


def _apart(rewriter: Rewriter, gate: Value, up: Value) -> str | None:
    """Why gate and up cannot be one weight."""
    for value in (gate, up):
        if not rewriter.is_param(value):
            return f"%{value.name} is computed, not a parameter"
    if isinstance(rewriter.program(gate), Each) != isinstance(rewriter.program(up), Each):
        return f"of %{gate.name} and %{up.name}, one is packed and one is not"
    return None


def _fused(rewriter: Rewriter, gate: Value, up: Value) -> Value:
    both = _both(rewriter.program(gate), rewriter.program(up))
    return rewriter.param(gate.name.replace("gate", "gate_up"), both)


def _both(gate: Program, up: Program) -> Program:
    """Gate and up, both [E, F, ...], as [E, 2, F, ...]: an expert's where these are told apart."""
    match gate, up:
        case Indexed(first, index, count), Indexed(second, other) if (
            type(gate) is type(up) and index == other
        ):
            rows = joined((first, second), 0)
            return type(gate)(unflattened(rows, 0, (TWO, first.shape[0])), index, count)
        case Concat(firsts, 0), Concat(seconds, 0) if _shapes(firsts) == _shapes(seconds):
            return Concat(tuple(map(_both, firsts, seconds)), 0)
    return unflattened(joined((gate, up), 1), 1, (TWO, gate.shape[1]))


def _shapes(programs: tuple[Program, ...]) -> list[tuple[Dim, ...]]:
    return [program.shape for program in programs]
