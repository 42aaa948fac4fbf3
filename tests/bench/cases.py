"""What is timed beside peers: the experts of published models, and the small kernels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from archsmith.compiler.ir.cost import Cost, Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.elementwise import GatedActivation
from archsmith.compiler.ops.experts import FusedExperts
from archsmith.compiler.ops.loss import LinearCrossEntropy
from archsmith.compiler.ops.moe import Router
from archsmith.compiler.ops.norm import AddRmsNorm, RmsNorm
from archsmith.compiler.ops.position import Rope
from archsmith.compiler.ops.quantized_experts import QuantizedExperts

TOKENS = (1, 8, 16, 32, 128, 512, 4096, 8192, 32768)
DECODED = 512  # tokens, up to which each is its own row of a batch
TRAINED = 4096  # tokens, from which gradients are timed too

EXPERTS: Mapping[str, tuple[int, int, int, int]] = {
    "v2-lite": (64, 6, 2048, 1408),
    "qwen3-30b": (128, 8, 2048, 768),
    "v3": (256, 8, 7168, 2048),
    "mixtral": (8, 2, 4096, 14336),
}
"""How many there are, how many of them a token has, their width and their inner width."""

HEAD = "bfloat16[B, T, 2048]; bfloat16[102400, 2048]; int64[B, T]"


@dataclass(frozen=True)
class Case:
    """One op with operands of some sizes, and the calls of it that are timed."""

    name: str
    op: Op
    operands: tuple[TensorType, ...]
    calls: tuple[Sizes, ...]
    gradients: tuple[str, ...] = ()
    """Operands whose gradients are timed with the result; none: forward alone."""
    cold: bool = False
    """Whether rows are no longer in the cache, as in a kernel that is held to its bandwidth."""
    compiled: bool = True
    """Whether PyTorch's path is worth compiling: of experts it asks the host in each call."""

    @property
    def dtype(self) -> str:
        return self.operands[0].dtype

    @property
    def multiplied(self) -> str:
        """What its products are computed in, as a target names it."""
        return "float8" if getattr(self.op, "activations", False) else self.dtype

    def phase(self, sizes: Sizes) -> str:
        if self.gradients or self.op.name == "linear_cross_entropy":
            return "train"
        return "decode" if sizes.tokens == 1 else "prefill"

    def work(self, sizes: Sizes) -> Cost:
        """What no way to compute a call can avoid, gradients included."""
        forward = self.op.cost(sizes, *self.operands)
        if not self.gradients:
            return forward
        return forward + self.op.gradient_cost(sizes, self.gradients, *self.operands)


def experts(
    model: str,
    tokens: Sequence[int] = TOKENS,
    *,
    backward: bool = False,
    float8: bool = False,
    memory: float | None = None,
) -> Case:
    """The experts of a model, all of them or as many as fit half of a memory of so many bytes.

    In float8 both weights, with a scale for each 128 by 128, and what they multiply.
    """
    every, top_k, width, inner = EXPERTS[model]
    count = every
    if memory:
        count = max(min(count, int(memory / 2 / (3 * width * inner * 2))), top_k)
    calls = tuple(
        Sizes(n, 1, n) if n <= DECODED and not backward else Sizes(1, n, n) for n in tokens
    )
    name = f"experts{' in float8' * float8}, {model}" + (
        f", {count} of {every}" if count < every else ""
    )
    of = of_experts(name, count, top_k, width, inner, calls, backward)
    return in_float8(of) if float8 else of


def of_experts(
    name: str,
    count: int,
    top_k: int,
    width: int,
    inner: int,
    calls: tuple[Sizes, ...],
    backward: bool = False,
    dtype: str = "bfloat16",
) -> Case:
    types = (
        f"{dtype}[B, T, {width}]",
        f"int64[B, T, {top_k}]",
        f"float32[B, T, {top_k}]",
        f"{dtype}[{count}, 2, {inner}, {width}]",
        f"{dtype}[{count}, {width}, {inner}]",
    )
    gradients = ("x", "weight", "gate_up", "down") if backward else ()
    op = FusedExperts("silu")
    return Case(name, op, _types(*types), calls, gradients, compiled=False)


def in_float8(case: Case) -> Case:
    """The same experts in 8 bits, whose gate and up are whole blocks of 128 rows each."""
    x, index, weight, gate_up, down = case.operands
    count, _, inner, width = (axis.size for axis in gate_up.row)
    narrow = (replace(type, dtype="float8_e4m3fn") for type in (gate_up, down))
    rows, columns = -(-inner // 128), -(-width // 128)
    scales = _types(
        f"float32[{count}, 2, {rows}, {columns}]", f"float32[{count}, {columns}, {rows}]"
    )
    op = QuantizedExperts("silu", block=Dim.of(128), activations=True)
    return replace(case, op=op, operands=(x, index, weight, *narrow, *scales))


def small(dtype: str = "bfloat16") -> list[Case]:
    """The small kernels at sizes that fill a chip, forward, and forward with backward."""
    found = []
    for rows, width in ((16384, 4096), (8192, 8192), (16384, 7168)):
        row, gain, calls = f"{dtype}[B, T, {width}]", f"{dtype}[{width}]", (Sizes(1, rows, rows),)
        norm, added = RmsNorm(1e-6), AddRmsNorm(1e-6)
        found += _both(f"RMS norm, {width:,}", norm, (row, gain), calls, ("x", "weight"))
        wanted = ("x", "residual", "weight")
        found += _both(f"add and RMS norm, {width:,}", added, (row, row, gain), calls, wanted)
    row, calls = f"{dtype}[B, T, 8192]", (Sizes(1, 8192, 8192),)
    op = GatedActivation("silu")
    found += _both("gated activation, 8,192", op, (row, row), calls, ("gate", "up"))
    table = "float32[B, T, 32]"
    heads = f"{dtype}[B, T, 128, 64]"
    found += _both("RoPE, 128 heads of 64", Rope(False), (heads, table, table), calls, ("x",))
    types, calls = _types(*HEAD.split("; ")), (Sizes(1, 8192, 8192),)
    for wanted in ((), ("x", "weight")):
        name = "linear cross-entropy, 102,400"
        found.append(Case(name, LinearCrossEntropy(), types, calls, wanted))
    for name, (width, count), op in (
        ("v2-lite", (2048, 64), router(score="softmax", top_k=6, normalize=False, scale=1.0)),
        ("qwen3-30b", (2048, 128), router(score="softmax", top_k=8, normalize=True, scale=1.0)),
    ):
        types = _types(f"{dtype}[B, T, {width}]", f"{dtype}[{count}, {width}]")
        sizes = (Sizes(1, 1, 1), Sizes(128, 1, 128), Sizes(1, 8192, 8192))
        found.append(Case(f"router, {name}", op, types, sizes))
    return found


def router(*, top_k: int, **rules: Any) -> Router:
    return Router(top_k=Dim.of(top_k), **rules)


def _both(
    name: str, op: Op, types: Sequence[str], calls: tuple[Sizes, ...], wanted: tuple[str, ...]
) -> list[Case]:
    operands = _types(*types)
    return [Case(name, op, operands, calls, each, cold=True) for each in ((), wanted)]


def _types(*texts: str) -> tuple[TensorType, ...]:
    return tuple(TensorType.parse(text) for text in texts)
