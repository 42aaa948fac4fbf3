"""Linear layers of rows that are normed on the way: what a decoding step launches at once."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir.cost import Cost, Sizes
from ..ir.dims import TWO
from ..ir.op import Array, Op, require
from ..ir.types import TensorType
from .elementwise import ACTIVATIONS, Activation
from .norm import AddRmsNorm, RmsNorm


@dataclass(frozen=True)
class RmsNormLinear(Op):
    """`rms_norm`, a product with a weight, and a bias where there is one.

    x [B, T, D], weight [..., D], gain [D] and bias [...]; the result is [B, T, ...]. With an
    `activation`, weight is [2, F, D], the gate first, and the result is `activation(gate) * up`,
    [B, T, F] (arXiv:2002.05202, equation 6).
    """

    name = "rms_norm_linear"

    eps: float
    offset: float = 0.0
    activation: str | None = None

    def infer(
        self,
        x: TensorType,
        weight: TensorType,
        gain: TensorType | None = None,
        bias: TensorType | None = None,
    ) -> TensorType:
        RmsNorm(self.eps, self.offset).infer(x, gain)
        fits = weight.shape == weight.row and weight.dtype == x.dtype and len(weight.shape) > 1
        require(fits and x.shape[-1:] == weight.shape[-1:], f"{weight} is no weight of rows {x}")
        out = weight.shape[:-1]
        require(bias is None or bias == TensorType(x.dtype, out), f"{bias} is no bias of {weight}")
        if self.activation is None:
            return TensorType(x.dtype, (*x.shape[:-1], *out))
        require(len(out) == 2 and out[0] == TWO, f"{weight} is not [2, width, hidden]")
        return Activation(self.activation).infer(TensorType(x.dtype, (*x.shape[:-1], out[1])))

    def initial(self, operand: str) -> str:
        if operand == "gain":
            return RmsNorm(self.eps, self.offset).initial(operand)
        return "zeros" if operand == "bias" else "normal"

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        """Each weight is multiplied and added once a row."""
        return Cost(2 * sizes.rows * sizes.count(operands[1])) + super().cost(sizes, *operands)

    def reference(
        self, x: Array, weight: Array, gain: Array | None = None, bias: Array | None = None
    ) -> Array:
        y = np.tensordot(RmsNorm(self.eps, self.offset).reference(x, gain), weight, (-1, -1))
        y = y if bias is None else y + bias
        if self.activation is None:
            return y
        return ACTIVATIONS[self.activation](y[..., 0, :]) * y[..., 1, :]


@dataclass(frozen=True)
class AddRmsNormLinear(Op):
    """Add a residual, then `rms_norm_linear` the sum; returns the sum too, for the next one."""

    name = "add_rms_norm_linear"

    eps: float
    offset: float = 0.0
    activation: str | None = None

    def infer(
        self,
        x: TensorType,
        residual: TensorType,
        weight: TensorType,
        gain: TensorType | None = None,
        bias: TensorType | None = None,
    ) -> tuple[TensorType, TensorType]:
        AddRmsNorm(self.eps).infer(x, residual)
        return x, self.of_sum.infer(x, weight, gain, bias)

    @property
    def of_sum(self) -> RmsNormLinear:
        """What is done to the sum."""
        return RmsNormLinear(**self.attributes())

    def initial(self, operand: str) -> str:
        return self.of_sum.initial(operand)

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        """Each weight is multiplied and added once a row."""
        return Cost(2 * sizes.rows * sizes.count(operands[2])) + super().cost(sizes, *operands)

    def reference(
        self,
        x: Array,
        residual: Array,
        weight: Array,
        gain: Array | None = None,
        bias: Array | None = None,
    ) -> tuple[Array, Array]:
        total = x + residual
        return total, self.of_sum.reference(total, weight, gain, bias)
