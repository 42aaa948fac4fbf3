"""Weight programs that compute: their results are rounded, and the tensors no longer in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from ..errors import GraphError
from .dims import Dim, Which
from .moves import joined, sliced
from .pick import Pick
from .weights import (
    Concat,
    Flatten,
    Indexed,
    Program,
    Read,
    Ref,
    Shape,
    Slice,
    Transpose,
    Unflatten,
    check_axis,
)


@dataclass(frozen=True)
class Computed(Program):
    """What computes with `of`, by a function of that name in text and packages."""

    function: ClassVar[str]
    holds: ClassVar[bool] = True
    """Whether the result stands for `of`; else it is only told by it, as its largest number is."""
    of: Program

    @property
    def shape(self) -> Shape:
        return self.of.shape

    @property
    def parts(self) -> tuple[Program, ...]:
        return (self.of,)


@dataclass(frozen=True)
class Times(Computed):
    """`of` times a constant."""

    function = "times"
    factor: float

    def __post_init__(self) -> None:
        if not math.isfinite(self.factor):
            raise GraphError(f"a weight times {self.factor} is no weight")

    def evaluate(self, which: Which, read: Read, index: Mapping[str, int]) -> Any:
        return self.of.evaluate(which, read, index) * self.factor

    def __str__(self) -> str:
        return f"times({self.of}, {float(self.factor)})"


@dataclass(frozen=True)
class Along(Computed):
    """What computes along one axis."""

    axis: int

    def __post_init__(self) -> None:
        check_axis(self.axis, self.of.shape)


@dataclass(frozen=True)
class Scale(Along):
    """`of` times `by + offset`, a number for each entry of one axis."""

    function = "scale"
    by: Program
    offset: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by.shape != (self.of.shape[self.axis],):
            raise GraphError(f"{self.by} has no number for each entry of axis {self.axis}")

    @property
    def parts(self) -> tuple[Program, ...]:
        return (self.of, self.by)

    def evaluate(self, which: Which, read: Read, index: Mapping[str, int]) -> Any:
        gain = self.by.evaluate(which, read, index) + self.offset
        trailing = (1,) * (len(self.shape) - self.axis - 1)
        return self.of.evaluate(which, read, index) * gain.reshape(-1, *trailing)

    def __str__(self) -> str:
        offset = f", {self.offset}" if self.offset else ""
        return f"scale({self.of}, {self.axis}, {self.by}{offset})"


@dataclass(frozen=True)
class Rotate(Along):
    """`of` turned along one axis by `rotation` of its size; turned twice, it is as it was."""

    function = "rotate"

    def evaluate(self, which: Which, read: Read, index: Mapping[str, int]) -> Any:
        whole = np.moveaxis(self.of.evaluate(which, read, index), self.axis, -1)
        return np.moveaxis(whole @ rotation(whole.shape[-1]), -1, self.axis)

    def __str__(self) -> str:
        return f"rotate({self.of}, {self.axis})"


def rotation(n: int) -> Any:
    """An orthogonal and symmetric matrix [n, n] in float64 that spreads each entry over all.

    For n = 2^k m it is the Kronecker product of Sylvester's Hadamard matrix of 2^k and the discrete
    Hartley matrix of the odd m, cos + sin of 2 pi i j / m (doi:10.1364/JOSA.73.001832), both over
    the root of their size. All its entries have one magnitude where n is a power of two.
    """
    odd = n // (n & -n)
    angle = 2 * np.pi / odd * (np.outer(np.arange(odd), np.arange(odd)) % odd)
    matrix = (np.cos(angle) + np.sin(angle)) / np.sqrt(n)
    while len(matrix) < n:
        matrix = np.block([[matrix, matrix], [matrix, -matrix]])
    return matrix


def scaled(program: Program, axis: int, by: Program, offset: float = 0.0) -> Program:
    """`scale` as near to the tensors as it goes: so each is scaled as it is read."""

    def along(part: Program, at: int) -> Program:
        if not isinstance(part, Concat) or part.axis != at:
            return Scale(part, at, by, offset)
        parts, start = [], Dim.of(0)
        for each in part.of:
            size = each.shape[at]
            parts.append(scaled(each, at, sliced(by, 0, start, size), offset))
            start = start + size
        return joined(parts, at)

    return _inward(program, axis, along)


def rotated(program: Program, axis: int) -> Program:
    """`rotate` as near to the tensors as it goes; what is turned by it already is turned back."""

    def along(part: Program, at: int) -> Program:
        if isinstance(part, Rotate) and part.axis == at:
            return part.of
        return Rotate(part, at)

    return _inward(program, axis, along)


def multiplied(program: Program, factor: float) -> Program:
    """`times` at the tensors, so that all else is made of these; one that is there takes it up."""
    match program:
        case Times(of, known):
            return multiplied(of, known * factor)
        case Ref():
            return Times(program, factor) if factor != 1 else program
    return _made_of(program, lambda part: multiplied(part, factor))


def _inward(program: Program, axis: int, make: Callable[[Program, int], Program]) -> Program:
    """What `make` gives of the programs inside, as far as they keep the axis as it is."""
    match program:
        case Times(of, factor):
            return multiplied(_inward(of, axis, make), factor)
        case Along(of, other) if other != axis:  # along two axes, it is all the same which first
            return replace(program, of=_inward(of, axis, make))
        case Transpose(of, order):
            return replace(program, of=_inward(of, order[axis], make))
        case Indexed(body) if axis > 0:
            return replace(program, body=_inward(body, axis - 1, make))
        case Pick(of):
            return replace(program, of=_inward(of, axis + 1, make))
        case Concat(parts, along) if along != axis:
            return replace(program, of=tuple(_inward(part, axis, make) for part in parts))
        case Unflatten(of, at, into) if not at <= axis < at + len(into):
            inner = axis if axis < at else axis - len(into) + 1
            return replace(program, of=_inward(of, inner, make))
        case Flatten(of, at) if axis != at:
            return replace(program, of=_inward(of, axis if axis < at else axis + 1, make))
    return make(program, axis)


def computed(program: Program) -> Iterator[Computed]:
    """All that computes in a program."""
    if isinstance(program, Computed):
        yield program
    for part in program.parts:
        yield from computed(part)


def held(program: Program) -> Program:
    """What a program moves, as though nothing in it computed: which numbers it has room for."""
    match program:
        case Computed(of):
            return held(of)
        case Ref():
            return program
    return _made_of(program, held)


def _made_of(program: Program, make: Callable[[Program], Program]) -> Program:
    """The same program of what `make` gives of those inside; gains stay as they are."""
    match program:
        case Concat(parts):
            return replace(program, of=tuple(map(make, parts)))
        case Indexed(body):
            return replace(program, body=make(body))
        case Computed(of) | Slice(of) | Unflatten(of) | Flatten(of) | Transpose(of) | Pick(of):
            return replace(program, of=make(of))
    raise GraphError(f"{program} moves nothing")


def gains(program: Program) -> Iterator[Program]:
    """What a program computes with beside what it holds: the vectors that it scales by, each as
    often as it does, and what it only tells something of."""
    match program:
        case Computed(of) if not program.holds:
            yield from (of, *gains(of))
        case Scale(of, _, by):
            yield from (by, *gains(by), *gains(of))
        case Indexed(body):
            yield from (replace(program, body=gain) for gain in gains(body))
        case _:
            for part in program.parts:
                yield from gains(part)
