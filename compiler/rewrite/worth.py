"""Worth: what a rewrite of a graph saves and costs, by a target's roofline where it is known."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass

from ..ir.cost import Cost, Sizes
from ..ir.graph import Graph
from ..ir.op import Op
from ..ir.types import FLOATS, TensorType
from ..machine.roofline import floor
from ..machine.target import Target

_Work = Counter[tuple[Op, tuple[TensorType, ...]]]


@dataclass(frozen=True)
class Spent:
    """What the ops that a rewrite changes take in one call."""

    cost: Cost
    seconds: float | None
    """At best, one op after another; None: the target does not state enough to say."""

    def __str__(self) -> str:
        if self.seconds is not None:
            time = self.seconds * 1e6
            return f"{time:,.1f} us" if time >= 1 else f"{time:.2g} us"
        return f"{self.cost.bytes / 1e3:,.1f} kB and {self.cost.flops / 1e6:,.2f} MFLOPs"


def compared(before: Graph, after: Graph, phase: str, target: Target | None) -> tuple[Spent, Spent]:
    """What is spent on what only one of two graphs computes, in a usual call of a phase."""
    was, now = _work(before), _work(after)
    sizes = Sizes.usual(phase)
    return _spent(was - now, sizes, target), _spent(now - was, sizes, target)


def better(now: Spent, was: Spent, phase: str) -> bool:
    """Whether a rewrite takes less time, or moves fewer bytes in as much.

    Where no times are known, decoding is held to be as quick as its bytes are few, and anything
    else to be quicker only where neither bytes nor arithmetic are more.
    """
    fewer = now.cost.bytes, now.cost.flops
    known = was.cost.bytes, was.cost.flops
    if now.seconds is not None and was.seconds is not None:
        return (now.seconds, *fewer) < (was.seconds, *known)
    if phase == "decode":
        return fewer < known
    return fewer != known and all(a <= b for a, b in zip(fewer, known, strict=True))


def _work(graph: Graph) -> _Work:
    return Counter(
        (node.op, tuple(value.type for value in graph.operands(node)))
        for node in graph.nodes()
        if node.op is not None
    )


def _spent(work: _Work, sizes: Sizes, target: Target | None) -> Spent:
    costs = [(op.cost(sizes, *types), types, times) for (op, types), times in work.items()]
    cost = sum((cost * times for cost, _, times in costs), Cost())
    if target is None or not target.bandwidth:
        return Spent(cost, None)
    floors = [(floor(cost, _dtype(types), target), times) for cost, types, times in costs]
    seconds = [least.seconds * times for least, times in floors if least is not None]
    # Summed exactly, so that the order of the ops makes no difference.
    return Spent(cost, math.fsum(seconds) if len(seconds) == len(floors) else None)


def _dtype(operands: tuple[TensorType, ...]) -> str:
    """What contractions of these operands are computed in."""
    return next((type.dtype for type in operands if type.dtype in FLOATS), FLOATS[0])
