"""The square of a ReLU in Triton: against its op in float64."""

from __future__ import annotations

import pytest
from archsmith.compiler.ir.cost import Sizes
from archsmith_relu2.op import ReluSquared
from kernels.checks import differ, interpreted

# Of a rounding to the stored dtype, and of a product in float32.
CLOSE = {"float32": 1e-6, "float16": 1e-3}


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("width", [1, 7, 64, 341, 342, 1000, 1024])
def test_relu_squared(width: int, dtype: str) -> None:
    for sizes in (Sizes(1, 1, 1), Sizes(2, 3, 3)):
        found = interpreted(
            "triton.relu_squared", ReluSquared(), [f"[B, T, {width}]"], sizes, dtype=dtype
        )
        assert differ(*found) < CLOSE[dtype]
