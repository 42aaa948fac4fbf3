"""Tensors of a checkpoint that pack what an index counts, such as all experts of a layer."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .computed import Along, Times
from .dims import Dim
from .moves import flattened, sliced
from .pick import Pick
from .weights import Concat, Each, Flatten, Program, Ref, Slice, Stack, Transpose, Unflatten

PAIR = (1, 0)


@dataclass(frozen=True)
class Packed:
    """Where a checkpoint has a weight that it packs, as `tensor` [experts, ...] of all experts.

    transposed  an expert's matrix is [in, out], not [out, in]
    every       each expert's rows take turns with those of so many weights in all, itself included
    first       the first row that is this weight's
    """

    tensor: str
    transposed: bool = False
    every: int = 1
    first: int = 0

    def each(self, family: Each) -> Each:
        """The same family of weights, each picked from the tensor that packs them."""
        shape = family.body.shape
        stored = (Dim.of(self.every) * shape[0], *shape[1:])
        if self.transposed:
            stored = stored[::-1]
        body: Program = Pick(Ref(self.tensor, (family.count, *stored)), family.index)
        if self.transposed:
            body = Transpose(body, PAIR)
        if self.every > 1:
            turns = Unflatten(body, 0, (shape[0], Dim.of(self.every)))
            apart = Transpose(turns, (*PAIR, *range(2, len(turns.shape))))
            body = flattened(sliced(apart, 0, Dim.of(self.first), Dim.of(1)), 0)
        return replace(family, body=body)


def stacked(family: Each) -> Program:
    """A family in one tensor; where one packs it already, that tensor, its axes moved alike."""
    whole = _whole(family.body, family.index)
    return whole if whole is not None else Stack(family.body, family.index, family.count)


def _whole(program: Program, index: str) -> Program | None:
    """What a program is of all entries at once, if it picks its own from one tensor."""
    match program:
        case Pick(of, picked) if picked == index:
            return None if _indexed(of, index) else of
        case Transpose(of, order):
            whole = _whole(of, index)
            return whole and Transpose(whole, (0, *(axis + 1 for axis in order)))
        case Concat(parts, axis):
            wholes = tuple(_whole(part, index) for part in parts)
            found = tuple(whole for whole in wholes if whole is not None)
            return Concat(found, axis + 1) if len(found) == len(parts) else None
        case Times(of):
            whole = _whole(of, index)
            return whole and replace(program, of=whole)
        case Slice(of, axis) | Unflatten(of, axis) | Flatten(of, axis) | Along(of, axis):
            whole = _whole(of, index)
            alike = not any(_indexed(part, index) for part in program.parts[1:])
            return replace(program, of=whole, axis=axis + 1) if whole and alike else None
    return None


def _indexed(program: Program, index: str) -> bool:
    """Whether a program is another one for each entry of an index."""
    named = any(f"{{{index}}}" in ref.name for ref in program.refs())
    return named or any(True for _ in program.counted(index))
