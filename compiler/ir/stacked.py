"""A family of weights in one tensor: stacked, or the tensor that a checkpoint packs it in."""

from __future__ import annotations

from dataclasses import replace

from .pick import Pick
from .weights import Concat, Each, Flatten, Program, Slice, Stack, Transpose, Unflatten


def stacked(family: Each) -> Program:
    """A family in one tensor; where one packs it already, that tensor, its axes moved alike.

    What computes with each of a family stays with each.
    """
    whole = _whole(family.body, family.index)
    return whole if whole is not None else Stack(family.body, family.index, family.count)


def _whole(program: Program, index: str) -> Program | None:
    """What a program is of all entries at once, if it picks its own from one tensor."""
    match program:
        case Pick(of, picked) if picked == index:
            return None if _indexed(of, index) else of
        case Concat(parts, axis):
            wholes = [whole for part in parts if (whole := _whole(part, index))]
            return Concat(tuple(wholes), axis + 1) if len(wholes) == len(parts) else None
        case Transpose(of, order):
            whole = _whole(of, index)
            return whole and Transpose(whole, (0, *(axis + 1 for axis in order)))
        case Slice(of, axis) | Unflatten(of, axis) | Flatten(of, axis):
            whole = _whole(of, index)
            return whole and replace(program, of=whole, axis=axis + 1)
    return None


def _indexed(program: Program, index: str) -> bool:
    """Whether a program is another one for each entry of an index."""
    named = any(f"{{{index}}}" in ref.name for ref in program.refs())
    return named or any(True for _ in program.counted(index))
