"""Sizes as pairs: a model's own size, and the small probe that stands for it in the twin."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from ..errors import GraphError

Which = Literal["size", "probe"]

BATCH, TOKENS, CONTEXT = "B", "T", "S"  # named, since no graph knows them

_TEXT = re.compile(r"([0-9]{1,18})(?:~([0-9]{1,18}))?")


@dataclass(frozen=True)
class Dim:
    """A size and its probe, with the same arithmetic on both.

    Two Dims are equal when both parts are: independent sizes of a spec get independent probes, so
    equality is a randomized test of symbolic equality.
    """

    size: int
    probe: int

    @classmethod
    def of(cls, n: int) -> Dim:
        """The Dim of a number that is the same in every model (0, 1, 2)."""
        return cls(n, n)

    @classmethod
    def parse(cls, text: str) -> Dim:
        match = _TEXT.fullmatch(text)
        if not match:
            raise GraphError(f"{text!r} is no dimension; write 64, or 64~5 with its probe")
        return cls(int(match[1]), int(match[2] or match[1]))

    def at(self, which: Which) -> int:
        return self.size if which == "size" else self.probe

    @property
    def unseen(self) -> bool:
        """Whether there is an axis that its probe is too small to show: swapped, nothing moves."""
        return self.probe <= 1 and self.size != self.probe

    def __add__(self, other: Dim | int) -> Dim:
        other = _lift(other)
        return Dim(self.size + other.size, self.probe + other.probe)

    def __sub__(self, other: Dim | int) -> Dim:
        other = _lift(other)
        return Dim(self.size - other.size, self.probe - other.probe)

    def __mul__(self, other: Dim | int) -> Dim:
        other = _lift(other)
        return Dim(self.size * other.size, self.probe * other.probe)

    __radd__, __rmul__ = __add__, __mul__

    def __floordiv__(self, other: Dim | int) -> Dim:
        """Exact division; raises `GraphError` where either part has a remainder."""
        other = _lift(other)
        if self.size % other.size or self.probe % other.probe:
            raise GraphError(f"{self} is not a multiple of {other}")
        return Dim(self.size // other.size, self.probe // other.probe)

    def __index__(self) -> int:
        """The number itself, once `Op.at` has chosen between size and probe."""
        if self.size != self.probe:
            raise TypeError(f"{self} is a pair; choose its size or its probe first")
        return self.size

    def __str__(self) -> str:
        return str(self.size) if self.size == self.probe else f"{self.size}~{self.probe}"


ZERO, ONE, TWO = Dim(0, 0), Dim(1, 1), Dim(2, 2)


def total(dims: tuple[Dim, ...]) -> Dim:
    """The sum of one or more Dims."""
    result = dims[0]
    for dim in dims[1:]:
        result = result + dim
    return result


def product(dims: tuple[Dim, ...]) -> Dim:
    result = ONE
    for dim in dims:
        result = result * dim
    return result


def _lift(n: Dim | int) -> Dim:
    return n if isinstance(n, Dim) else Dim(n, n)
