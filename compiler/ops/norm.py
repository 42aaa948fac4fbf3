"""Normalizations."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from ..ir.cost import Cost, Sizes
from ..ir.op import Array, Op, require
from ..ir.types import TensorType


@dataclass(frozen=True)
class RmsNorm(Op):
    """Divide each row by its root mean square, then multiply by `weight + offset`, if there is one.

    arXiv:1910.07467, equation 4; `offset` is 1 where a checkpoint stores the weight less one.
    """

    name = "rms_norm"

    eps: float
    offset: float = 0.0

    def infer(self, x: TensorType, weight: TensorType | None = None) -> TensorType:
        require(len(x.shape) > 0, f"{x} has no axis")
        if weight is None:
            require(self.offset == 0.0, f"{self.offset} is added to no weight")
            return x
        require(weight.shape == x.shape[-1:], f"weight {weight} does not span the last axis of {x}")
        return x

    def initial(self, operand: str) -> str:
        return "zeros" if self.offset == 1.0 else "ones"

    def reference(self, x: Array, weight: Array | None = None) -> Array:
        mean_square = np.mean(x * x, axis=-1, keepdims=True)
        normed = x / np.sqrt(mean_square + self.eps)
        return normed if weight is None else normed * (weight + self.offset)


@dataclass(frozen=True)
class LayerNorm(Op):
    """Give each row mean 0 and variance 1, times `weight + offset`, plus `bias`, where they are.

    arXiv:1607.06450, equation 4; `offset` as in `rms_norm`.
    """

    name = "layer_norm"

    eps: float
    offset: float = 0.0

    def infer(
        self, x: TensorType, weight: TensorType | None = None, bias: TensorType | None = None
    ) -> TensorType:
        require(bias is None or bias == weight, f"bias {bias} is unlike weight {weight}")
        return RmsNorm(self.eps, self.offset).infer(x, weight)

    def initial(self, operand: str) -> str:
        return "zeros" if operand == "bias" else RmsNorm(self.eps, self.offset).initial(operand)

    def reference(self, x: Array, weight: Array | None = None, bias: Array | None = None) -> Array:
        centred = x - np.mean(x, axis=-1, keepdims=True)
        variance = np.mean(centred * centred, axis=-1, keepdims=True)
        normed = centred / np.sqrt(variance + self.eps)
        scaled = normed if weight is None else normed * (weight + self.offset)
        return scaled if bias is None else scaled + bias


@dataclass(frozen=True)
class AddRmsNorm(Op):
    """Add a residual, then `rms_norm` the sum; returns the sum too, for the next residual."""

    name = "add_rms_norm"

    eps: float
    offset: float = 0.0

    def infer(
        self, x: TensorType, residual: TensorType, weight: TensorType | None = None
    ) -> tuple[TensorType, TensorType]:
        require(x == residual, f"residual {residual} differs from {x}")
        return x, RmsNorm(self.eps, self.offset).infer(x, weight)

    def initial(self, operand: str) -> str:
        return RmsNorm(self.eps, self.offset).initial(operand)

    def gradient_cost(self, sizes: Sizes, wanted: Collection[str], *operands: TensorType) -> Cost:
        """Both summands have one gradient, and of them the sum is read."""
        x, _, *weight = operands
        norm = RmsNorm(self.eps, self.offset)
        return norm.gradient_cost(sizes, wanted, x, *weight) + Cost(bytes=sizes.bytes(x))

    def reference(
        self, x: Array, residual: Array, weight: Array | None = None
    ) -> tuple[Array, Array]:
        total = x + residual
        return total, RmsNorm(self.eps, self.offset).reference(total, weight)
