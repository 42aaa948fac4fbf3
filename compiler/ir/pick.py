"""A weight program that takes one entry of a tensor: what an index counts along its first axis."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import GraphError
from .dims import Dim, Which
from .weights import Program, Read, Shape


@dataclass(frozen=True)
class Pick(Program):
    """The entry of the first axis that an index counts: one expert's of a tensor of all."""

    of: Program
    index: str

    def __post_init__(self) -> None:
        if not self.of.shape:
            raise GraphError(f"{self.of} has no axis to pick from")

    @property
    def shape(self) -> Shape:
        return self.of.shape[1:]

    @property
    def parts(self) -> tuple[Program, ...]:
        return (self.of,)

    def counted(self, index: str) -> Iterator[Dim]:
        yield from super().counted(index)
        if index == self.index:
            yield self.of.shape[0]

    def evaluate(self, which: Which, read: Read, index: Mapping[str, int]) -> Any:
        return self.of.evaluate(which, read, index)[index[self.index]]

    def __str__(self) -> str:
        return f"pick({self.of}, {self.index})"
