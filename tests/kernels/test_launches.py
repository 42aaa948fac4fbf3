"""What PyTorch's kernels say that they launch, against what PyTorch is seen to run."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.attention import Attend
from archsmith.compiler.ops.elementwise import GatedActivation, Softcap
from archsmith.compiler.ops.moe import Route, Router
from archsmith.compiler.ops.norm import AddRmsNorm, RmsNorm
from archsmith.compiler.ops.position import Rope, Rotations
from archsmith.compiler.schedule.code import name
from kernels.checks import emitted, registry
from torch.utils._python_dispatch import TorchDispatchMode

SIZES = Sizes(2, 5, 5)
X, GAIN = "bfloat16[B, T, 64]", "bfloat16[64]"
LOGITS, BIAS = "float32[B, T, 16]", "float32[16]"
HEADS, TURNS = "bfloat16[B, T, 4, 16]", "float32[B, T, 8]"
KEYS = ("bfloat16[B, S, 4, 16]", "bfloat16[B, S, 4, 16]", "int64[B, T]")
GROUPED = Route("sigmoid", Dim.of(4), Dim.of(4), Dim.of(2), "top2_sum", True, 2.5)
CASES = {
    "softcap": (Softcap(3.0), X),
    "gated_activation": (GatedActivation("silu"), X, X),
    "rms_norm": (RmsNorm(1e-6), X, GAIN),
    "rms_norm, no gain": (RmsNorm(1e-6), X),
    "add_rms_norm": (AddRmsNorm(1e-6), X, X, GAIN),
    "add_rms_norm, no gain": (AddRmsNorm(1e-6), X, X),
    "rope": (Rope(False), HEADS, TURNS, TURNS),
    "rope, interleaved": (Rope(True), HEADS, TURNS, TURNS),
    "rotations": (Rotations(Dim.of(16), 1e4, "bfloat16"), "int64[B, T]"),
    "rotations, yarn": (
        Rotations(Dim.of(16), 1e4, "bfloat16", "yarn", 8.0, 64.0),
        "int64[B, T]",
    ),
    "rotations, linear": (
        Rotations(Dim.of(16), 1e4, "bfloat16", "linear", 8.0),
        "int64[B, T]",
    ),
    "rotations, longrope": (
        Rotations(Dim.of(16), 1e4, "bfloat16", "longrope", factors=(1.0, 2.0) * 4),
        "int64[B, T]",
    ),
    "rotations, llama3": (
        Rotations(Dim.of(16), 1e4, "bfloat16", "llama3", 8.0, 64.0),
        "int64[B, T]",
    ),
    "route": (Route("softmax", Dim.of(4)), LOGITS),
    "route, normalized": (Route("softmax", Dim.of(4), normalize=True), LOGITS),
    "route, grouped": (GROUPED, LOGITS, BIAS),
    "route, with others": (Route("softmax", Dim.of(4), always=Dim.of(2)), LOGITS),
    "router": (Router("softmax", Dim.of(4)), X, "bfloat16[16, 64]"),
    "router, wide": (Router("sigmoid", Dim.of(4)), "float32[B, T, 64]", "float32[16, 64]", BIAS),
    "attend": (Attend(0.5), HEADS, *KEYS),
    "attend, capped": (Attend(0.5, softcap=3.0), HEADS, *KEYS),
    "attend, with sinks": (Attend(0.5), HEADS, *KEYS, "bfloat16[4]"),
}


NO_LAUNCH = ("empty", "detach", "promote_types", "_unsafe_view")


class Count(TorchDispatchMode):
    """Counts the ops that compute: views, and what only allocates, launch nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        first = result[0] if isinstance(result, tuple | list) else result
        views = func.is_view or (isinstance(first, torch.Tensor) and first._is_view())
        if not views and func.overloadpacket.__name__ not in NO_LAUNCH:
            self.ops.append(str(func))
        return result


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_launches(case: tuple[Any, ...]) -> None:
    op: Op
    op, *shapes = case
    types = tuple(map(TensorType.parse, shapes))
    kernel = registry().kernels[f"torch.{op.name}"]()
    claimed = kernel.cost(op, types, SIZES, registry().targets["h200"]).launches
    names = op.operand_names()[: len(types)]
    operands: dict[str, Any] = {}
    for key, type in zip(names, types, strict=True):
        shape = type.sizes("size", B=2, T=5, S=5)
        dtype = getattr(torch, type.dtype)
        drawn = torch.arange(5).expand(2, 5) if key == "positions" else torch.randn(shape)
        operands[key] = drawn.to(dtype)
    space = {"torch": torch, "F": torch.nn.functional, **operands}
    if kernel.functions:
        space |= vars(emitted(kernel, {op: types}, "h200"))
        space |= operands
    code = kernel.call(op.at("size"), *map(name, names), phases=("prefill",))
    text = code.text.replace("self.dtype", "torch.bfloat16").replace("cache.fresh", "True")
    with Count() as count:
        eval(text, space)
    assert claimed == len(count.ops), count.ops
