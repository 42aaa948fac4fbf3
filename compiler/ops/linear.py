"""Contraction, the one op that multiplies with a weight matrix, and the lookup of an embedding."""

from __future__ import annotations

import math
import re
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from ..ir.cost import Cost, Sizes
from ..ir.dims import Dim
from ..ir.op import Array, Indices, Op, require
from ..ir.types import TensorType


@dataclass(frozen=True)
class Einsum(Op):
    """Sum over the letters that the result lacks: `btd,fd->btf` is a linear layer."""

    name = "einsum"
    linear = True

    equation: str

    def infer(self, *operands: TensorType) -> TensorType:
        require(
            re.fullmatch(r"[a-z]+(,[a-z]+)*->[a-z]+", self.equation) is not None,
            f"{self.equation!r} is no equation such as btd,fd->btf",
        )
        left, result = self.equation.split("->")
        terms = left.split(",")
        require(len(terms) == len(operands), f"{self.equation} needs {len(terms)} operands")
        axes: dict[str, Dim | str] = {}
        for term, operand in zip(terms, operands, strict=True):
            require(len(term) == len(operand.shape), f"{term} does not name the axes of {operand}")
            for letter, axis in zip(term, operand.shape, strict=True):
                known = axes.setdefault(letter, axis)
                require(known == axis, f"{letter} of {self.equation} is both {known} and {axis}")
            require(operand.dtype == operands[0].dtype, f"{operand} is not {operands[0].dtype}")
        require(set(result) <= set(axes), f"{self.equation} gives an axis that no operand has")
        return TensorType(operands[0].dtype, tuple(axes[letter] for letter in result))

    @property
    def projects(self) -> bool:
        """Whether this is a linear layer: x [..., D] times the transpose of a weight [..., D]."""
        left, result = self.equation.split("->")
        terms = left.split(",")
        if len(terms) != 2:
            return False
        x, weight = terms
        letters = x[:-1] + weight
        return x[-1] == weight[-1] and result == letters[:-1] and len(set(letters)) == len(letters)

    def linear_in(self, varying: tuple[bool, ...]) -> bool:
        return sum(varying) == 1  # a product of two is linear in each, not in both

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        """Two operations for each combination of all letters, where any is summed."""
        left, result = self.equation.split("->")
        axes: dict[str, Dim | str] = {}
        for term, operand in zip(left.split(","), operands, strict=True):
            axes |= zip(term, operand.shape, strict=True)
        summed = len(operands) > 1 and set(axes) > set(result)
        every = sizes.count(TensorType(operands[0].dtype, tuple(axes.values())))
        return Cost(flops=2 * every if summed else 0) + super().cost(sizes, *operands)

    def reference(self, *operands: Array) -> Array:
        sizes: dict[str, int] = {}
        for term, x in zip(self.equation.split("->")[0].split(","), operands, strict=True):
            sizes |= zip(term, x.shape, strict=True)
        # To plan a product takes longer than to compute a small one.
        large = math.prod(sizes.values()) > 30_000
        return np.asarray(np.einsum(self.equation, *operands, optimize=large))


@dataclass(frozen=True)
class Embed(Op):
    """The rows of `weight` [V, D] that `tokens` [B, T] name."""

    name = "embed"

    def infer(self, tokens: TensorType, weight: TensorType) -> TensorType:
        require(tokens.dtype == "int64", f"tokens are {tokens}")
        require(len(weight.shape) == 2, f"an embedding is [vocabulary, width], not {weight}")
        return TensorType(weight.dtype, (*tokens.shape, weight.shape[1]))

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        """The rows that are named are copied."""
        tokens, _ = operands
        (rows,) = self.types(*operands)
        return Cost(bytes=sizes.bytes(tokens) + 2 * sizes.bytes(rows))

    def gradient_cost(self, sizes: Sizes, wanted: Collection[str], *operands: TensorType) -> Cost:
        """Rows are added where they were copied from, and the gradient has all rows there are."""
        tokens, _ = operands
        (rows,) = self.types(*operands)
        written = self.written_gradients(sizes, wanted, *operands)
        return Cost(bytes=sizes.bytes(tokens) + sizes.bytes(rows) + written)

    def reference(self, tokens: Indices, weight: Array) -> Array:
        return np.asarray(weight[tokens])
