"""What is timed beside peers of attention: decoding, prefill and training of published models."""

from __future__ import annotations

from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.attention import Attend
from archsmith.compiler.ops.quantized_attention import QuantizedAttend

from .cases import Case

LATENT = 576, 512
"""Columns of DeepSeek's keys, and of the values that begin them (arXiv:2405.04434)."""

DECODED: tuple[tuple[str, int, int, tuple[int, int], tuple[Sizes, ...]], ...] = (
    (
        "128 heads, one latent (V3)",
        128,
        1,
        LATENT,
        tuple(Sizes(128, 1, slots) for slots in (4096, 8192, 16384, 32768)),
    ),
    (
        "16 heads, one latent (V2-Lite)",
        16,
        1,
        LATENT,
        (
            *(Sizes(batch, 1, slots) for batch in (1, 4) for slots in (1024, 8192)),
            Sizes(128, 1, 1024),
            Sizes(128, 1, 4096),
        ),
    ),
    (
        "32 heads of 128 in groups of 4 (Llama 3 8B)",
        32,
        8,
        (128, 128),
        (Sizes(1, 1, 8192), Sizes(64, 1, 4096)),
    ),
)
IN_FLOAT8 = (
    ("16 heads, latent in float8 (V2-Lite)", 16, (Sizes(128, 1, 4096),)),
    ("128 heads, latent in float8 (V3)", 128, (Sizes(128, 1, 4096), Sizes(128, 1, 32768))),
)
TRAINED = (
    ("128 heads, 192 and 128 (V3)", 128, 128, (192, 128)),
    ("16 heads, 192 and 128 (V2-Lite)", 16, 16, (192, 128)),
    ("32 heads of 128 in groups of 4 (Llama 3 8B)", 32, 8, (128, 128)),
)


def attention(dtype: str = "bfloat16") -> list[Case]:
    """Each kind of attention: one token a row, and whole sequences with gradients and without."""
    found = []
    for name, heads, groups, widths, calls in DECODED:
        op, types = _attention(dtype, heads, groups, *widths)
        found.append(Case(f"decode, {name}", op, types, calls, compiled=False))
    for name, heads, calls in IN_FLOAT8:
        key, value = LATENT
        texts = f"{dtype}[B, T, {heads}, {key}]", f"float8_e4m3fn[B, S, {value}]"
        texts += f"float32[B, S, {value // 128}]", f"{dtype}[B, S, {key - value}]", "int64[B, T]"
        types = tuple(map(TensorType.parse, texts))
        found.append(Case(f"decode, {name}", QuantizedAttend(192**-0.5, Dim.of(128)), types, calls))
    calls = tuple(Sizes(1, tokens, tokens) for tokens in (4096, 8192))
    for name, heads, groups, widths in TRAINED:
        op, types = _attention(dtype, heads, groups, *widths)
        found += [
            Case(f"prefill, {name}", op, types, calls, wanted, compiled=False)
            for wanted in ((), ("q", "k", "v"))
        ]
    return found


def _attention(
    dtype: str, heads: int, groups: int, key: int, value: int
) -> tuple[Attend, tuple[TensorType, ...]]:
    texts = (
        f"{dtype}[B, T, {heads}, {key}]",
        f"{dtype}[B, S, {groups}, {key}]",
        f"{dtype}[B, S, {groups}, {value}]",
        "int64[B, T]",
    )
    op = Attend(key**-0.5, value_in_key=(key, value) == LATENT)
    return op, tuple(map(TensorType.parse, texts))
