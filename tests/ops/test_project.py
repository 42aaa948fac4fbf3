"""What products that append refuse: operands beside the others that no such op has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest
from archsmith.compiler.errors import GraphError
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from ops.cases import ABSORBED, PROJECT_LATENT, X

GAIN, KEY = "float32[12~4]", "float32[B, T, 4~6]"


@pytest.mark.parametrize(
    ("beside", "attributes", "why"),
    [
        ({"gain": GAIN, "residual": X}, {}, "residual, gain, bias, .* so in order: not gain, res"),
        ({"q_weight": GAIN}, {}, "not q_weight"),
        ({"bias": "float32[40~37]"}, {}, "a bias without a gain"),
        ({"gain": GAIN, "k_rope": KEY}, {}, "a latent and its key are both beside the others, or"),
        ({"gain": GAIN}, {"caches": ("r", "n", "s")}, "3 caches, not 1"),
        ({"gain": GAIN}, {"caches": ("kv",), "block": Dim.of(16)}, "1 caches, not 3"),
    ],
)
def test_what_stands_beside(
    beside: Mapping[str, str], attributes: Mapping[str, Any], why: str
) -> None:
    op = replace(PROJECT_LATENT, offset=0.0, **attributes, beside=tuple(beside))
    types = (X, "float32[40~37, 12~4]", *ABSORBED, *beside.values())
    with pytest.raises(GraphError, match=f"project_latent: .*{why}"):
        op.types(*map(TensorType.parse, types))
