"""Weights in 8 bits: each block of a matrix in units of a scale of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..errors import GraphError
from .computed import Computed
from .dims import Dim, Which
from .types import EIGHT_BITS
from .weights import Concat, Indexed, Program, Read, Shape, Unflatten

BLOCK = Dim(128, 3)
"""Rows and columns of a block (arXiv:2412.19437, section 3.3.2)."""

LARGEST = {"float8_e4m3fn": 448.0, "int8": 127.0}
"""The largest number of each dtype; a block's largest becomes it."""


@dataclass(frozen=True)
class InBlocks(Computed):
    """What is computed of matrices in blocks: of the last two axes, those before them are many."""

    dtype: str
    block: Dim

    def __post_init__(self) -> None:
        if self.dtype not in LARGEST:
            raise GraphError(f"{self.dtype!r} has not 8 bits; there are {', '.join(EIGHT_BITS)}")
        if len(self.of.shape) < 2:
            raise GraphError(f"{self.of} is no matrix, and has no blocks")
        if min(self.block.size, self.block.probe) < 1:
            raise GraphError(f"a block of {self.block} rows and columns is none")

    def __str__(self) -> str:
        return f'{self.function}({self.of}, "{self.dtype}", {self.block})'


@dataclass(frozen=True)
class Quantize(InBlocks):
    """`of` in units of its blocks' scales, rounded to numbers of the dtype."""

    function = "quantize"

    def evaluate(self, which: Which, read: Read, index: Mapping[str, int]) -> Any:
        whole, block = self.of.evaluate(which, read, index), self.block.at(which)
        scales = scales_of(whole, self.dtype, block)
        return rounded(whole / spread(scales, whole.shape, block), self.dtype)


@dataclass(frozen=True)
class BlockScales(InBlocks):
    """The scales of `of`: one a block, its largest magnitude by the largest of the dtype."""

    function = "block_scales"
    holds = False

    @property
    def shape(self) -> Shape:
        *outer, rows, columns = self.of.shape
        return (*outer, blocks(rows, self.block), blocks(columns, self.block))

    def evaluate(self, which: Which, read: Read, index: Mapping[str, int]) -> Any:
        whole = self.of.evaluate(which, read, index)
        return scales_of(whole, self.dtype, self.block.at(which))


def inward(program: InBlocks) -> Program:
    """The same, computed a step nearer to the tensors where blocks stay what they are."""
    of, inner = program.of, len(program.of.shape) - 2
    match of:
        case Indexed(body) if inner > 0:
            return replace(of, body=replace(program, of=body))
        case Concat(parts, axis) if axis < inner:
            return replace(of, of=tuple(replace(program, of=part) for part in parts))
        case Unflatten(Concat(parts, joined), axis, (count, rows)) if (
            joined == axis == inner - 1 and all(part.shape[axis] == rows for part in parts)
        ):
            both = Concat(tuple(replace(program, of=part) for part in parts), axis)
            return Unflatten(both, axis, (count, both.of[0].shape[axis]))
    return program


def blocks(size: Dim, block: Dim) -> Dim:
    """How many blocks there are along an axis; the last may be a smaller one."""
    return Dim(-(-size.size // block.size), -(-size.probe // block.probe))


def rounded(x: Any, dtype: str) -> Any:
    """The nearest numbers of an 8-bit dtype, the even of two; as an array of float64.

    E4M3 (arXiv:2209.05433, table 1): three bits behind the leading one, from 2^-6 on.
    """
    if dtype == "int8":
        return np.rint(x)
    _, exponent = np.frexp(x)
    step = np.ldexp(1.0, np.maximum(exponent, -5) - 4)
    return np.rint(x / step) * step


def scales_of(x: Any, dtype: str, block: int, rows: int | None = None) -> Any:
    """The scales of blocks of the last two axes, of so many rows, else square; one, of zeros."""
    by = (block if rows is None else rows, block)
    short = [(0, -size % of) for size, of in zip(x.shape[-2:], by, strict=True)]
    whole = np.pad(np.abs(x), [(0, 0)] * (x.ndim - 2) + short)
    counts = [size // of for size, of in zip(whole.shape[-2:], by, strict=True)]
    split = whole.reshape(*x.shape[:-2], counts[0], by[0], counts[1], by[1])
    scales = split.max((-3, -1)) / LARGEST[dtype]
    return np.where(scales == 0, 1.0, scales)


def spread(scales: Any, shape: tuple[int, ...], block: int, rows: int | None = None) -> Any:
    """A scale for each entry of matrices: that of its block."""
    by = block if rows is None else rows
    tall = np.repeat(scales, by, axis=-2)[..., : shape[-2], :]
    return np.repeat(tall, block, axis=-1)[..., : shape[-1]]
