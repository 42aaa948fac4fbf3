"""The square of a ReLU."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from archsmith.compiler.ir.op import Array, Op
from archsmith.compiler.ir.types import TensorType


@dataclass(frozen=True)
class ReluSquared(Op):
    """`max(x, 0) ** 2` (arXiv:2109.08668, section 4)."""

    name = "relu_squared"

    def infer(self, x: TensorType) -> TensorType:
        return x

    def reference(self, x: Array) -> Array:
        return np.maximum(x, 0.0) ** 2
