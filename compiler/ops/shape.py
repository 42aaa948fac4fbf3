"""Structure without arithmetic: split, unbind, concat, unflatten, flatten and expand.

Axes count from the end, so an op works the same whatever leads.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from ..ir.cost import Cost, Sizes
from ..ir.dims import Dim, product, total
from ..ir.op import Array, Op, require
from ..ir.types import TensorType


@dataclass(frozen=True)
class Split(Op):
    """Cut one axis into pieces of these sizes."""

    name = "split"
    linear = True
    view = True

    sizes: tuple[Dim, ...]
    axis: int = -1

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        at = _axis(x, self.axis)
        require(total(self.sizes) == x.shape[at], f"sizes do not add up to axis {self.axis} of {x}")
        return tuple(
            TensorType(x.dtype, (*x.shape[:at], size, *x.shape[at + 1 :])) for size in self.sizes
        )

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        return Cost()  # a view

    def reference(self, x: Array) -> tuple[Array, ...]:
        ends = np.cumsum([int(size) for size in self.sizes])
        return tuple(np.split(x, ends[:-1], axis=self.axis))


@dataclass(frozen=True)
class Unbind(Op):
    """The parts along an axis of a few, such as a gate and what it gates [B, T, 2, F]."""

    name = "unbind"
    linear = True
    view = True

    axis: int = -2

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:
        at = _axis(x, self.axis)
        count = x.shape[at]
        if not isinstance(count, Dim) or count.size != count.probe:
            require(False, f"axis {self.axis} of {x} has no fixed number of parts")
            raise AssertionError
        part = TensorType(x.dtype, (*x.shape[:at], *x.shape[at + 1 :]))
        return (part,) * int(count)

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        return Cost()  # a view

    def reference(self, x: Array) -> tuple[Array, ...]:
        return tuple(np.moveaxis(x, self.axis, 0))


@dataclass(frozen=True)
class Concat(Op):
    """Join tensors along one axis."""

    name = "concat"
    linear = True

    axis: int = -1

    def infer(self, *operands: TensorType) -> TensorType:
        first = operands[0]
        at = _axis(first, self.axis)
        sizes = []
        for operand in operands:
            rest = (*operand.shape[:at], *operand.shape[at + 1 :])
            same = rest == (*first.shape[:at], *first.shape[at + 1 :])
            require(same and operand.dtype == first.dtype, f"{operand} does not join {first}")
            size = operand.shape[at]
            require(isinstance(size, Dim), f"axis {self.axis} of {operand} has no size")
            sizes.append(size)
        joined = total(tuple(s for s in sizes if isinstance(s, Dim)))
        return TensorType(first.dtype, (*first.shape[:at], joined, *first.shape[at + 1 :]))

    def gradient_cost(self, sizes: Sizes, wanted: Collection[str], *operands: TensorType) -> Cost:
        return Cost()  # parts of the result's, where they stand

    def reference(self, *operands: Array) -> Array:
        return np.concatenate(operands, axis=self.axis)


@dataclass(frozen=True)
class Unflatten(Op):
    """One axis as several."""

    name = "unflatten"
    linear = True
    view = True

    sizes: tuple[Dim, ...]
    axis: int = -1

    def infer(self, x: TensorType) -> TensorType:
        at = _axis(x, self.axis)
        require(product(self.sizes) == x.shape[at], f"sizes do not make axis {self.axis} of {x}")
        return TensorType(x.dtype, (*x.shape[:at], *self.sizes, *x.shape[at + 1 :]))

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        return Cost()  # a view

    def reference(self, x: Array) -> Array:
        at = x.ndim + self.axis
        return x.reshape(*x.shape[:at], *map(int, self.sizes), *x.shape[at + 1 :])


@dataclass(frozen=True)
class Flatten(Op):
    """Axis `axis` and the one after it as one."""

    name = "flatten"
    linear = True
    view = True

    axis: int = -2

    def infer(self, x: TensorType) -> TensorType:
        at = _axis(x, self.axis)
        require(at + 1 < len(x.shape), f"{x} has no axis after {self.axis}")
        first, second = x.shape[at], x.shape[at + 1]
        if not (isinstance(first, Dim) and isinstance(second, Dim)):
            require(False, f"axes {self.axis} and {self.axis + 1} of {x} have no size")
            raise AssertionError
        return TensorType(x.dtype, (*x.shape[:at], first * second, *x.shape[at + 2 :]))

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        return Cost()  # a view

    def reference(self, x: Array) -> Array:
        at = x.ndim + self.axis
        return x.reshape(*x.shape[:at], -1, *x.shape[at + 2 :])


@dataclass(frozen=True)
class Expand(Op):
    """Repeat along a new axis before the last: one key [B, T, K] for every head [B, T, H, K]."""

    name = "expand"
    linear = True
    view = True

    count: Dim

    def infer(self, x: TensorType) -> TensorType:
        return TensorType(x.dtype, (*x.shape[:-1], self.count, x.shape[-1]))

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        return Cost()  # a view

    def reference(self, x: Array) -> Array:
        return np.repeat(x[..., None, :], int(self.count), axis=-2)


def _axis(x: TensorType, axis: int) -> int:
    require(-len(x.shape) <= axis < 0, f"axis {axis} is none of {x}; axes count from the end")
    return len(x.shape) + axis
