"""Weight programs: a parameter as an expression over the tensors of a checkpoint."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import GraphError
from .dims import Dim, Which, product, total

TENSOR_NAME = re.compile(r"(?:[A-Za-z0-9_.]|\{[a-z]+\})+")
Shape = tuple[Dim, ...]
Read = Callable[[str, tuple[int, ...]], Any]
"""Returns the checkpoint's tensor of that name, which must have that shape."""


@dataclass(frozen=True)
class Program(ABC):
    """An expression over checkpoint tensors; programs only move weights, never change them."""

    @property
    @abstractmethod
    def shape(self) -> Shape: ...

    @property
    @abstractmethod
    def parts(self) -> tuple[Program, ...]:
        """The programs this one is made of."""

    @abstractmethod
    def evaluate(self, which: Which, read: Read, index: Mapping[str, int]) -> Any:
        """The parameter as an array; `index` gives `{layer}` and the like their numbers."""

    def refs(self) -> Iterator[Ref]:
        for part in self.parts:
            yield from part.refs()

    def counted(self, index: str) -> Iterator[Dim]:
        """How many entries each tensor has that is packed along an index."""
        for part in self.parts:
            yield from part.counted(index)


@dataclass(frozen=True)
class Ref(Program):
    """One tensor of the checkpoint; `{layer}` and `{expert}` in its name are indices."""

    name: str
    of: Shape

    def __post_init__(self) -> None:
        if not TENSOR_NAME.fullmatch(self.name):
            raise GraphError(
                f"{self.name!r} is no tensor name; use A-Z, a-z, 0-9, _, . and {{layer}}"
            )

    @property
    def shape(self) -> Shape:
        return self.of

    @property
    def parts(self) -> tuple[Program, ...]:
        return ()

    def evaluate(self, which: Which, read: Read, index: Mapping[str, int]) -> Any:
        name = self.name
        for key, number in index.items():
            name = name.replace(f"{{{key}}}", str(number))
        return read(name, tuple(d.at(which) for d in self.of))

    def refs(self) -> Iterator[Ref]:
        yield self

    def __str__(self) -> str:
        return f'ref("{self.name}", ({_items(self.of)}))'


@dataclass(frozen=True)
class Indexed(Program):
    """One program run over an index: `count` results, counted along a new first axis."""

    body: Program
    index: str
    count: Dim

    def __post_init__(self) -> None:
        for entries in self.body.counted(self.index):
            if entries != self.count:
                raise GraphError(f"{self} picks from {entries}")

    @property
    def shape(self) -> Shape:
        return (self.count, *self.body.shape)

    @property
    def parts(self) -> tuple[Program, ...]:
        return (self.body,)

    def evaluate(self, which: Which, read: Read, index: Mapping[str, int]) -> Any:
        count = self.count.at(which)
        return np.stack(
            [self.body.evaluate(which, read, {**index, self.index: i}) for i in range(count)]
        )


@dataclass(frozen=True)
class Each(Indexed):
    """A family: the results are tensors of their own, as a checkpoint has its experts."""

    def __str__(self) -> str:
        return f"each({self.body}, {self.index}, {self.count})"


@dataclass(frozen=True)
class Stack(Indexed):
    """The results in one tensor."""

    def __str__(self) -> str:
        return f"stack({self.body}, {self.index}, {self.count})"


@dataclass(frozen=True)
class Concat(Program):
    """Several programs along one axis."""

    of: tuple[Program, ...]
    axis: int

    def __post_init__(self) -> None:
        if not self.of:
            raise GraphError("concat joins nothing")
        first = self.of[0].shape
        check_axis(self.axis, first)
        for part in self.of[1:]:
            same = part.shape[: self.axis] == first[: self.axis]
            if not same or part.shape[self.axis + 1 :] != first[self.axis + 1 :]:
                raise GraphError(
                    f"({_items(part.shape)}) does not join ({_items(first)}) on {self.axis}"
                )

    @property
    def shape(self) -> Shape:
        along = total(tuple(p.shape[self.axis] for p in self.of))
        first = self.of[0].shape
        return (*first[: self.axis], along, *first[self.axis + 1 :])

    @property
    def parts(self) -> tuple[Program, ...]:
        return self.of

    def evaluate(self, which: Which, read: Read, index: Mapping[str, int]) -> Any:
        parts = [p.evaluate(which, read, index) for p in self.of]
        return np.concatenate(parts, axis=self.axis)

    def __str__(self) -> str:
        return f"concat([{', '.join(map(str, self.of))}], {self.axis})"


@dataclass(frozen=True)
class Slice(Program):
    """`length` entries from `start` along one axis."""

    of: Program
    axis: int
    start: Dim
    length: Dim

    def __post_init__(self) -> None:
        check_axis(self.axis, self.of.shape)
        rest = self.of.shape[self.axis] - self.start - self.length
        if min(rest.size, rest.probe, self.start.size) < 0:
            raise GraphError(f"{self} passes the end of ({_items(self.of.shape)})")

    @property
    def shape(self) -> Shape:
        return (*self.of.shape[: self.axis], self.length, *self.of.shape[self.axis + 1 :])

    @property
    def parts(self) -> tuple[Program, ...]:
        return (self.of,)

    def evaluate(self, which: Which, read: Read, index: Mapping[str, int]) -> Any:
        start, length = self.start.at(which), self.length.at(which)
        whole = self.of.evaluate(which, read, index)
        return whole[(slice(None),) * self.axis + (slice(start, start + length),)]

    def __str__(self) -> str:
        return f"slice({self.of}, {self.axis}, {self.start}, {self.length})"


@dataclass(frozen=True)
class Unflatten(Program):
    """One axis as several."""

    of: Program
    axis: int
    into: Shape

    def __post_init__(self) -> None:
        check_axis(self.axis, self.of.shape)
        if product(self.into) != self.of.shape[self.axis]:
            raise GraphError(f"({_items(self.into)}) is not {self.of.shape[self.axis]}")
        for dim in self.into:
            if dim.unseen:
                raise GraphError(f"unflatten makes an axis {dim}; 0 and 1 stand for themselves")

    @property
    def shape(self) -> Shape:
        return (*self.of.shape[: self.axis], *self.into, *self.of.shape[self.axis + 1 :])

    @property
    def parts(self) -> tuple[Program, ...]:
        return (self.of,)

    def evaluate(self, which: Which, read: Read, index: Mapping[str, int]) -> Any:
        whole = self.of.evaluate(which, read, index)
        return whole.reshape(tuple(d.at(which) for d in self.shape))

    def __str__(self) -> str:
        return f"unflatten({self.of}, {self.axis}, ({_items(self.into)}))"


@dataclass(frozen=True)
class Flatten(Program):
    """Axes `axis` and `axis + 1` as one."""

    of: Program
    axis: int

    def __post_init__(self) -> None:
        check_axis(self.axis, self.of.shape[:-1])

    @property
    def shape(self) -> Shape:
        whole, axis = self.of.shape, self.axis
        return (*whole[:axis], whole[axis] * whole[axis + 1], *whole[axis + 2 :])

    @property
    def parts(self) -> tuple[Program, ...]:
        return (self.of,)

    def evaluate(self, which: Which, read: Read, index: Mapping[str, int]) -> Any:
        whole = self.of.evaluate(which, read, index)
        return whole.reshape(tuple(d.at(which) for d in self.shape))

    def __str__(self) -> str:
        return f"flatten({self.of}, {self.axis})"


@dataclass(frozen=True)
class Transpose(Program):
    """The axes in another order: axis `i` of the result is axis `order[i]` of the program."""

    of: Program
    order: tuple[int, ...]

    def __post_init__(self) -> None:
        if sorted(self.order) != list(range(len(self.of.shape))):
            raise GraphError(f"{self.order} is no order of {len(self.of.shape)} axes")

    @property
    def shape(self) -> Shape:
        return tuple(self.of.shape[i] for i in self.order)

    @property
    def parts(self) -> tuple[Program, ...]:
        return (self.of,)

    def evaluate(self, which: Which, read: Read, index: Mapping[str, int]) -> Any:
        return self.of.evaluate(which, read, index).transpose(self.order)

    def __str__(self) -> str:
        return f"transpose({self.of}, ({', '.join(map(str, self.order))}))"


def check_axis(axis: int, shape: Shape) -> None:
    if not 0 <= axis < len(shape):
        raise GraphError(f"axis {axis} is none of the {len(shape)} there are")


def _items(dims: Shape) -> str:
    return ", ".join(map(str, dims))
