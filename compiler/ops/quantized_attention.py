"""Attention that all heads pay to one row a slot, of which a part is in float8."""

from __future__ import annotations

from dataclasses import dataclass

from ..ir.cost import Cost, Sizes
from ..ir.dims import CONTEXT, Dim
from ..ir.op import Array, Indices, Op, require
from ..ir.quantized import BLOCK
from ..ir.types import TensorType
from .attention import Attend
from .quantized_rows import DequantizeRows


@dataclass(frozen=True)
class QuantizedAttend(Op):
    """`attend` of keys that are `dequantize_rows`, and of values that are their first N columns.

    q [B, T, H, N + R], numbers [B, S, N] in float8, numbers_scale [B, S, N / block], rest [B, S, R]
    -> [B, T, H, N]: the absorbed attention of a latent and of keys with rope (arXiv:2405.04434,
    section 2.1.2). A query at position p sees the slots s <= p.
    """

    name = "quantized_attend"
    token_local = False

    scale: float
    block: Dim = BLOCK
    page: Dim | None = None
    """As of `attend`."""

    def pages(self) -> Dim | None:
        return self.page

    def infer(
        self,
        q: TensorType,
        numbers: TensorType,
        numbers_scale: TensorType,
        rest: TensorType,
        positions: TensorType,
    ) -> TensorType:
        require(rest.shape[1:2] == (CONTEXT,), f"{rest} is no context")
        row = DequantizeRows(self.block).infer(numbers, numbers_scale, rest)
        require(len(row.shape) == 3 and q.dtype == row.dtype, f"rows {row} do not fit queries {q}")
        one = Dim.of(1)
        key = TensorType(row.dtype, (*row.shape[:2], one, *row.row))
        value = TensorType(row.dtype, (*row.shape[:2], one, *numbers.row))
        return Attend(self.scale).infer(q, key, value, positions)

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        """Two products for each pair of a query and a slot that it sees; each row is read once."""
        q, numbers, _, rest, positions = operands
        ends = 2 * numbers.row[0].size + rest.row[0].size
        flops = 2 * sizes.pairs(None) * q.row[0].size * ends
        context = sum(map(sizes.bytes, operands[1:4]))
        return Cost(flops, context + sum(map(sizes.bytes, (q, positions, *self.types(*operands)))))

    def reference(
        self, q: Array, numbers: Array, numbers_scale: Array, rest: Array, positions: Indices
    ) -> Array:
        row = DequantizeRows(self.block).reference(numbers, numbers_scale, rest)[:, :, None]
        value = row[..., : numbers.shape[-1]]
        return Attend(self.scale).reference(q, row, value, positions)
