"""Rows of tokens in float8, with a scale for each block of columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir.dims import Dim
from ..ir.op import Array, Op, require
from ..ir.quantized import BLOCK, blocks, rounded, scales_of, spread
from ..ir.types import FLOATS, TensorType

FLOAT8 = "float8_e4m3fn"


@dataclass(frozen=True)
class QuantizeRows(Op):
    """Numbers of float8 (E4M3) [.., D], and the scales [.., D / block] that they are in units of.

    A scale makes the largest magnitude of its `block` columns 448, the largest of the format
    (arXiv:2412.19437, section 3.3.2); of zeros it is one. The last block may be smaller. Scales are
    in float32 or wider. Trained, gradients pass as if nothing were rounded (arXiv:1308.3432).
    """

    name = "quantize_rows"

    block: Dim = BLOCK

    def infer(self, x: TensorType) -> tuple[TensorType, TensorType]:
        require(len(x.shape) > 1 and x.dtype in FLOATS, f"{x} has no rows of floats")
        return TensorType(FLOAT8, x.shape), scales_type(x, self.block)

    def reference(self, x: Array) -> tuple[Array, Array]:
        block = int(self.block)
        scales = scales_of(x, FLOAT8, block, rows=1)
        return rounded(x / spread(scales, x.shape, block, rows=1), FLOAT8), scales


@dataclass(frozen=True)
class DequantizeRows(Op):
    """Rows [.., N + R]: what `quantize_rows` made of N columns, and behind it `rest` as it is.

    numbers [.., N] in float8, numbers_scale [.., N / block], rest [.., R]; the result has the dtype
    of `rest`.
    """

    name = "dequantize_rows"

    block: Dim = BLOCK

    def infer(self, numbers: TensorType, numbers_scale: TensorType, rest: TensorType) -> TensorType:
        require(len(rest.shape) > 1 and rest.dtype in FLOATS, f"{rest} has no rows of floats")
        wanted = TensorType(FLOAT8, (*rest.shape[:-1], *numbers.shape[-1:]))
        require(numbers == wanted, f"{numbers} are no numbers of {FLOAT8} beside {rest}")
        scales = scales_type(TensorType(rest.dtype, numbers.shape), self.block)
        require(numbers_scale == scales, f"the scales {numbers_scale} are not {scales}")
        columns = [t.shape[-1] for t in (numbers, rest)]
        known = [axis for axis in columns if isinstance(axis, Dim)]
        require(len(known) == 2, f"{rest} has no columns")
        return rest.last(known[0] + known[1])

    def reference(self, numbers: Array, numbers_scale: Array, rest: Array) -> Array:
        scales = spread(numbers_scale, numbers.shape, int(self.block), rows=1)
        return np.concatenate((numbers * scales, rest), axis=-1)


def scales_type(x: TensorType, block: Dim) -> TensorType:
    """The type of the scales of rows x; raises `GraphError` where it has none."""
    require(min(block.size, block.probe) > 0, f"a block of {block} is none")
    columns = x.shape[-1]
    if not isinstance(columns, Dim):
        require(False, f"the last axis of {x} has no size")
        raise AssertionError
    return x.wide.last(blocks(columns, block))
