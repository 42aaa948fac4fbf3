"""Elementwise arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace

import numpy as np

from ..ir.cost import Cost, Sizes
from ..ir.dims import ONE
from ..ir.op import Array, Op, require
from ..ir.types import TensorType


@dataclass(frozen=True)
class Add(Op):
    """Sum of two tensors; `y` may broadcast along leading axes, as a bias does."""

    name = "add"
    commutative = True

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        return _broadcast(x, y)

    def linear_in(self, varying: tuple[bool, ...]) -> bool:
        return True  # where one alone varies, the other is a bias

    def initial(self, operand: str) -> str:
        return "zeros"

    def gradient_cost(self, sizes: Sizes, wanted: Collection[str], *operands: TensorType) -> Cost:
        """That of the sum is each summand's; of a bias, it is added up."""
        x, y = operands
        if x == y or "y" not in wanted:
            return Cost()
        return Cost(bytes=sizes.bytes(x) + sizes.bytes(y))

    def reference(self, x: Array, y: Array) -> Array:
        return x + y


@dataclass(frozen=True)
class Mul(Op):
    """Product of two tensors; `y` may broadcast along leading axes."""

    name = "mul"
    commutative = True

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        return _broadcast(x, y)

    def reference(self, x: Array, y: Array) -> Array:
        return x * y


@dataclass(frozen=True)
class Scale(Op):
    """A tensor times a constant of the architecture."""

    name = "scale"
    linear = True

    factor: float
    stored: bool = False
    """The factor has the tensor's dtype, as where a model kept it among its weights."""

    def infer(self, x: TensorType) -> TensorType:
        return x

    def reference(self, x: Array) -> Array:
        return x * self.factor


@dataclass(frozen=True)
class Softcap(Op):
    """`cap * tanh(x / cap)`: keep logits within `cap` (Gemma 2, arXiv:2408.00118, section 2)."""

    name = "softcap"

    cap: float

    def infer(self, x: TensorType) -> TensorType:
        return x

    def reference(self, x: Array) -> Array:
        return self.cap * np.tanh(x / self.cap)


@dataclass(frozen=True)
class Clamp(Op):
    """Values below `low` become `low`, above `high` become `high`; None is no limit."""

    name = "clamp"

    low: float | None = None
    high: float | None = None

    def infer(self, x: TensorType) -> TensorType:
        require(self.low is not None or self.high is not None, "clamp has neither limit")
        return x

    def reference(self, x: Array) -> Array:
        return np.clip(x, self.low, self.high)


@dataclass(frozen=True)
class Zeros(Op):
    """Zeros of the type of `x`: a stream that starts empty."""

    name = "zeros"

    def infer(self, x: TensorType) -> TensorType:
        return x

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        return Cost(bytes=sizes.bytes(operands[0]))  # written; nothing of x but its shape is read

    def gradient_cost(self, sizes: Sizes, wanted: Collection[str], *operands: TensorType) -> Cost:
        return Cost()

    def reference(self, x: Array) -> Array:
        return np.zeros_like(x)


@dataclass(frozen=True)
class Widen(Op):
    """The same values in the dtype that reductions accumulate in: at least float32."""

    name = "widen"
    linear = True

    def infer(self, x: TensorType) -> TensorType:
        return x.wide

    def reference(self, x: Array) -> Array:
        return x


@dataclass(frozen=True)
class Activation(Op):
    """A nonlinear function of each value; see `ACTIVATIONS`."""

    name = "activation"

    function: str

    def infer(self, x: TensorType) -> TensorType:
        require(
            self.function in ACTIVATIONS,
            f"there is no activation {self.function}; there are {', '.join(ACTIVATIONS)}",
        )
        return x

    def reference(self, x: Array) -> Array:
        return ACTIVATIONS[self.function](x)


@dataclass(frozen=True)
class GatedActivation(Op):
    """`function(gate) * up`, the middle of a gated feed-forward (arXiv:2002.05202, equation 6)."""

    name = "gated_activation"

    function: str

    def infer(self, gate: TensorType, up: TensorType) -> TensorType:
        require(gate == up, f"the gate is {gate}, up {up}")
        return Activation(self.function).infer(gate)

    def reference(self, gate: Array, up: Array) -> Array:
        return Activation(self.function).reference(gate) * up


@dataclass(frozen=True)
class SigmoidGate(Op):
    """`sigmoid(logit) * x`, where a logit may be one for a whole row: [..., 1]."""

    name = "sigmoid_gate"

    def infer(self, x: TensorType, logit: TensorType) -> TensorType:
        row = replace(x, shape=(*x.shape[:-1], ONE))
        require(logit in (x, row), f"{logit} has no logit for each row of {x}, nor for each value")
        return x

    def reference(self, x: Array, logit: Array) -> Array:
        return sigmoid(logit) * x


def _broadcast(x: TensorType, y: TensorType) -> TensorType:
    fits = y.shape == x.shape[len(x.shape) - len(y.shape) :] and y.dtype == x.dtype
    require(fits, f"{y} does not broadcast to {x}")
    return x


def sigmoid(x: Array) -> Array:
    """`1 / (1 + exp(-x))`, in a form that overflows nowhere."""
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1.0, small) / (1 + small)


def _silu(x: Array) -> Array:
    return x * sigmoid(x)


def _gelu_tanh(x: Array) -> Array:
    """The tanh approximation of GELU (arXiv:1606.08415, section 2)."""
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def _gelu(x: Array) -> Array:
    """`x` times the standard normal distribution function (arXiv:1606.08415, equation 1)."""
    return 0.5 * x * (1 + _erf(x / np.sqrt(2)))


def _relu(x: Array) -> Array:
    return np.maximum(x, 0.0)


def _erf(x: Array) -> Array:
    flat = [math.erf(value) for value in x.ravel()]  # NumPy has none
    return np.array(flat).reshape(x.shape)


ACTIVATIONS: Mapping[str, Callable[[Array], Array]] = {
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "relu": _relu,
}
