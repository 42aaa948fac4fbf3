"""The activations and their derivatives as Triton computes them, in float32."""

from __future__ import annotations

import math
from collections.abc import Mapping

from ...compiler.schedule.code import Code, call, name

ONE = Code("1.0")
STEEP = math.sqrt(8 / math.pi)


def activations(variable: str) -> Mapping[str, Code]:
    """Each activation of a variable."""
    x = name(variable)
    return {
        "silu": x * call("tl.sigmoid", x),
        "gelu": x * 0.5 * (call("tl.erf", x * math.sqrt(0.5)) + ONE),
        # (1 + tanh(z)) / 2 is the sigmoid of 2 z.
        "gelu_tanh": x * call("tl.sigmoid", _bent(x)),
        "relu": call("tl.maximum", x, 0.0),
    }


def derivatives(variable: str) -> Mapping[str, Mapping[str, Code]]:
    """The derivative of each activation of a variable, `slope`, behind the steps that lead to it.

    That of `relu` at 0 is 0, as PyTorch's.
    """
    x = name(variable)
    normal = call("tl.exp", x * x * -0.5) * (1 / math.sqrt(2 * math.pi))
    sigmoid, passed, bend = call("tl.sigmoid", x), name("passed"), name("bend")
    return {
        "silu": {"slope": sigmoid * (x * (ONE - sigmoid) + ONE)},
        "gelu": {"slope": (call("tl.erf", x * math.sqrt(0.5)) + ONE) * 0.5 + x * normal},
        "gelu_tanh": {
            "passed": call("tl.sigmoid", _bent(x)),
            "bend": (x * x * (3 * 0.044715) + ONE) * STEEP,
            "slope": passed * (x * (ONE - passed) * bend + ONE),
        },
        "relu": {"slope": call("tl.where", x > 0.0, 1.0, 0.0)},
    }


def in_steps(derivative: Mapping[str, Code]) -> list[tuple[Code, Code]]:
    """The steps of a derivative as a template writes them: a name, and what it is."""
    return [(name(step), value) for step, value in derivative.items()]


def _bent(x: Code) -> Code:
    return (x + x * x * x * 0.044715) * STEEP
