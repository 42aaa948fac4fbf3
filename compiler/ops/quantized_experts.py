"""Experts whose matrices are held in 8 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir.dims import TWO, Dim
from ..ir.op import Array, Indices, require
from ..ir.quantized import BLOCK, LARGEST, blocks, rounded, scales_of, spread
from ..ir.types import TensorType
from .experts import ExpertsOp


@dataclass(frozen=True)
class QuantizedExperts(ExpertsOp):
    """`fused_experts` of matrices in 8 bits, with a scale for each `block` of rows and columns.

    gate_up [E, 2, F, D] and down [E, D, F] are in float8 (E4M3) or int8; their scales, in float32
    or wider, are [E, 2, F / block, D / block] and [E, D / block, F / block], rounded up. A weight
    is its number times the scale of its block. With `activations`, what is multiplied by them is
    in float8 as well: of each row, every `block` columns become multiples of their largest
    magnitude by 448 (arXiv:2412.19437, section 3.3.2), the hidden row as it is computed.
    """

    name = "quantized_experts"
    matrices = 2

    block: Dim = BLOCK
    activations: bool = False

    def initial(self, operand: str) -> str:
        return "ones" if operand.endswith("scale") else "zeros"

    def trained(self, operand: str) -> bool:
        """8 bits hold no small steps, and a scale without its numbers means nothing."""
        return operand in ("x", "weight")

    def infer(
        self,
        x: TensorType,
        index: TensorType,
        weight: TensorType,
        gate_up: TensorType,
        down: TensorType,
        gate_up_scale: TensorType,
        down_scale: TensorType,
    ) -> TensorType:
        require(min(self.block.size, self.block.probe) > 0, f"a block of {self.block} is none")
        for matrix, scale in ((gate_up, gate_up_scale), (down, down_scale)):
            require(matrix.dtype in LARGEST, f"{matrix} is not in 8 bits: {', '.join(LARGEST)}")
            *outer, rows, columns = matrix.row
            wanted = (*outer, blocks(rows, self.block), blocks(columns, self.block))
            fits = scale.shape == wanted and scale == scale.wide
            require(fits, f"the scales {scale} are not float32 or wider, one a block of {matrix}")
        require(gate_up.dtype == down.dtype, f"{gate_up} and {down} are of two dtypes")
        float8 = gate_up.dtype.startswith("float8")
        require(float8 or not self.activations, f"activations in float8 do not multiply {gate_up}")
        count, parts, inner, width = gate_up.row
        require(parts == TWO, f"gate and up are {gate_up}, not [experts, 2, width, hidden]")
        gate = TensorType(gate_up.dtype, (count, inner, width))
        return self.check(x, index, weight, gate, down, ())

    def reference(
        self,
        x: Array,
        index: Indices,
        weight: Array,
        gate_up: Array,
        down: Array,
        gate_up_scale: Array,
        down_scale: Array,
    ) -> Array:
        block, always, y = int(self.block), int(self.always), np.zeros_like(x)
        gate_up = gate_up * spread(gate_up_scale, gate_up.shape, block)
        down = down * spread(down_scale, down.shape, block)
        last = np.broadcast_to(np.arange(len(down) - always, len(down)), (*x.shape[:-1], always))
        index = np.concatenate([index[..., : index.shape[-1] - always], last], axis=-1)
        x = self._given(x)
        for e in range(len(down)):
            share = (weight * (index == e)).sum(-1, keepdims=True)
            hidden = self.middle(x @ gate_up[e, 0].T, x @ gate_up[e, 1].T)
            y = y + share * (self._given(hidden) @ down[e].T)
        return y

    def _given(self, x: Array) -> Array:
        """What is multiplied: x, or its nearest in float8."""
        if not self.activations:
            return x
        block, dtype = int(self.block), "float8_e4m3fn"
        scales = spread(scales_of(x, dtype, block, rows=1), x.shape, block, rows=1)
        return rounded(x / scales, dtype) * scales
