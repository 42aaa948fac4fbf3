"""The roofline: how soon a target can do a piece of work at best, and what holds it back."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.cost import Cost
from ..ir.types import FLOATS, TensorType
from .target import Target


@dataclass(frozen=True)
class Floor:
    """A time that no run goes below (doi:10.1145/1498765.1498785), and what it is spent on."""

    seconds: float
    bound: str
    """What takes the largest part: "compute", "memory" or "launches"."""


def computed_in(operands: tuple[TensorType, ...]) -> str:
    """What contractions of these operands are computed in."""
    return next((t.dtype for t in operands if t.dtype in FLOATS), FLOATS[0])


def floor(cost: Cost, dtype: str, target: Target) -> Floor | None:
    """The larger of the time to compute and the time to move, and the launches beside it.

    `dtype` is that of the contractions' operands. None where the target states no figure that is
    needed: work without contractions needs no peak.
    """
    peak = target.peak.get(dtype)
    if not target.bandwidth or (cost.flops and not peak):
        return None
    parts = {
        "compute": cost.flops / peak if peak else 0.0,
        "memory": cost.bytes / target.bandwidth,
        "launches": cost.launches * target.launch,
    }
    work = max(parts["compute"], parts["memory"])
    return Floor(work + parts["launches"], max(parts, key=parts.__getitem__))


def order(cost: Cost, dtype: str, target: Target) -> tuple[float, float, float, int]:
    """What to sort ways to compute one op by: least time first; where the target states too few
    figures to say, least bytes."""
    known = target.bandwidth and target.peak.get(dtype)
    found = floor(cost, dtype, target) if known else None
    return found.seconds if found else 0.0, cost.bytes, cost.flops, cost.launches
