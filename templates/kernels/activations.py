"""The activations as Triton computes them, in float32."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ...compiler.schedule.code import Code, call, name


def activations(variable: str) -> Mapping[str, Code]:
    """Each activation of a variable."""
    x = name(variable)
    return {
        "silu": x * call("tl.sigmoid", x),
        "gelu": x * 0.5 * (call("tl.erf", x * math.sqrt(0.5)) + Code("1.0")),
        # (1 + tanh(z)) / 2 is the sigmoid of 2 z.
        "gelu_tanh": x * call("tl.sigmoid", (x + x * x * x * 0.044715) * math.sqrt(8 / math.pi)),
        "relu": call("tl.maximum", x, 0.0),
    }
