"""Weight programs put together so that what undoes itself is left out."""

from __future__ import annotations

from collections.abc import Sequence

from .dims import Dim, product
from .weights import Concat, Flatten, Program, Slice, Transpose, Unflatten


def joined(parts: Sequence[Program], axis: int) -> Program:
    """Programs along one axis; those that are joined on it already are not joined twice, and what
    stands side by side in one program is a longer part of it."""
    flat: list[Program] = []
    for part in parts:
        for each in part.of if isinstance(part, Concat) and part.axis == axis else [part]:
            longer = _side_by_side(flat[-1], each, axis) if flat else None
            flat[-1:] = [longer] if longer else [*flat[-1:], each]
    return flat[0] if len(flat) == 1 else Concat(tuple(flat), axis)


def _side_by_side(first: Program, second: Program, axis: int) -> Program | None:
    """Two parts of one program as one part, where the second begins with the end of the first."""
    match first, second:
        case Slice(of, at, start, length), Slice(other, along, begin, more):
            if at == along == axis and of == other and begin == start + length:
                return sliced(of, axis, start, length + more)
        case Flatten(of, at), Flatten(other, along):
            if at == along == axis and of.shape[axis + 1] == other.shape[axis + 1]:
                longer = _side_by_side(of, other, axis)
                return longer and flattened(longer, axis)
    return None


def sliced(program: Program, axis: int, start: Dim, length: Dim) -> Program:
    """`length` entries from `start` along one axis; of what is joined on it, parts of the parts."""
    if length == program.shape[axis]:
        return program
    if not isinstance(program, Concat) or program.axis != axis:
        return Slice(program, axis, start, length)
    kept, offset = [], Dim.of(0)
    for part in program.of:
        size = part.shape[axis]
        first, last = (_within(end - offset, size) for end in (start, start + length))
        if first != last:
            kept.append(sliced(part, axis, first, last - first))
        offset = offset + size
    return joined(kept, axis)


def flattened(program: Program, axis: int) -> Program:
    """Axes `axis` and `axis + 1` as one; what they were unflattened from, where they were."""
    if not isinstance(program, Unflatten) or not 0 <= axis - program.axis < len(program.into) - 1:
        return Flatten(program, axis)
    at = axis - program.axis
    into = (*program.into[:at], product(program.into[at : at + 2]), *program.into[at + 2 :])
    return program.of if len(into) == 1 else Unflatten(program.of, program.axis, into)


def unflattened(program: Program, axis: int, into: tuple[Dim, Dim]) -> Program:
    """One axis as two; what they were flattened from, where they were."""
    whole = program.of if isinstance(program, Flatten) and program.axis == axis else program
    if whole.shape[axis : axis + 2] == into and whole is not program:
        return whole
    return Unflatten(program, axis, into)


def swapped(program: Program, axis: int) -> Program:
    """Axes `axis` and `axis + 1` in each other's place."""
    order = list(range(len(program.shape)))
    order[axis : axis + 2] = axis + 1, axis
    return Transpose(program, tuple(order))


def _within(end: Dim, size: Dim) -> Dim:
    return Dim(min(max(end.size, 0), size.size), min(max(end.probe, 0), size.probe))
