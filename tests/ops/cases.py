"""A row or more for every op: its attributes, and the types of operands that it takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from archsmith.compiler.ir.dims import ONE, Dim
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.append import AppendHeads, AppendLatent, AppendQuantizedLatent
from archsmith.compiler.ops.attention import Attend, Cached
from archsmith.compiler.ops.elementwise import (
    ACTIVATIONS,
    Activation,
    Add,
    Clamp,
    GatedActivation,
    Mul,
    Scale,
    SigmoidGate,
    Softcap,
    Widen,
    Zeros,
)
from archsmith.compiler.ops.experts import Experts, FusedExperts
from archsmith.compiler.ops.linear import Einsum, Embed
from archsmith.compiler.ops.loss import LinearCrossEntropy
from archsmith.compiler.ops.moe import SCORES, NormRouter, Route, Router
from archsmith.compiler.ops.norm import AddRmsNorm, LayerNorm, RmsNorm
from archsmith.compiler.ops.norm_linear import AddRmsNormLinear, RmsNormLinear
from archsmith.compiler.ops.position import Rope, Rotations
from archsmith.compiler.ops.project import ProjectHeads, ProjectLatent
from archsmith.compiler.ops.quantized_attention import QuantizedAttend
from archsmith.compiler.ops.quantized_experts import QuantizedExperts
from archsmith.compiler.ops.quantized_rows import DequantizeRows, QuantizeRows
from archsmith.compiler.ops.shape import Concat, Expand, Flatten, Split, Unbind, Unflatten

LENGTHS = {"B": 2, "T": 5, "S": 7}


@dataclass(frozen=True)
class Case:
    """An op and what it is applied to."""

    op: Op
    operands: tuple[TensorType, ...]

    def __str__(self) -> str:
        values = [f"{k}={v}" for k, v in self.op.attributes().items()]
        return f"{self.op.name}({', '.join([*map(str, self.operands), *values])})"


def case(op: Op, *operands: str) -> Case:
    return Case(op, tuple(map(TensorType.parse, operands)))


def beside(op: ProjectHeads | ProjectLatent, *operands: str, **others: str) -> Case:
    """An op with these operands beside those that it has to have."""
    return case(replace(op, beside=tuple(others)), *operands, *others.values())


def in_blocks(dtype: str) -> tuple[str, ...]:
    """Experts in 8 bits, and their scales for blocks of 5~3."""
    matrices = (f"{dtype}[6~4, 2, 14~5, 12~4]", f"{dtype}[6~4, 12~4, 14~5]")
    return (*matrices, "float32[6~4, 2, 3~2, 3~2]", "float32[6~4, 3~2, 3~2]")


def in_float8(tokens: str) -> tuple[str, ...]:
    """Rows of 12 numbers of float8, and their scales for blocks of 5~3."""
    return f"float8_e4m3fn[B, {tokens}, 12~4]", f"float32[B, {tokens}, 3~2]"


X = "float32[B, T, 12~4]"
KEYS = ("float32[B, S, 3~2, 8~6]", "float32[B, S, 3~2, 10~5]")
SCALINGS: tuple[Mapping[str, Any], ...] = (
    {},
    {"scaling": "linear", "factor": 4.0},
    {"scaling": "yarn", "factor": 8.0, "original_max_positions": 64, "gain": 1.2},
    {"scaling": "yarn", "factor": 8.0, "original_max_positions": 64, "truncate": False},
    {"scaling": "llama3", "factor": 8.0, "original_max_positions": 64},
    {"scaling": "longrope", "factors": (1.0, 1.5, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0), "gain": 1.2},
)
HEADS = (
    *("float32[B, T, 6~4, 8~6]", "float32[B, T, 3~2, 8~6]", "float32[B, T, 3~2, 10~5]"),
    "int64[B, T]",
)
LATENT = (
    *("float32[B, T, 3~2, 5~7]", "float32[B, T, 3~2, 4~6]", "float32[3~2, 5~7, 9~5]"),
    *("float32[B, T, 9~5]", "float32[B, T, 4~6]", "int64[B, T]"),
    *("float32[B, T, 2~3]", "float32[B, T, 2~3]"),
)
ABSORBED = ("float32[3~2, 5~7, 9~5]", "int64[B, T]", *LATENT[-2:])
PROJECT_HEADS = ProjectHeads(
    keys="k",
    values="v",
    heads=Dim(6, 4),
    groups=Dim(3, 2),
    key=Dim(8, 6),
    value=Dim(10, 5),
    interleaved=True,
    row_eps=1e-6,
    row_offset=1.0,
    eps=1e-2,
)
PROJECT_LATENT = ProjectLatent(
    caches=("kv",), interleaved=True, row_eps=1e-6, eps=1e-2, row_offset=1.0, offset=1.0
)
EXPERTS = ("float32[B, T, 12~4]", "int64[B, T, 3~2]", "float32[B, T, 3~2]")
TABLES = ("float32[6~4, 14~5, 12~4]", "float32[6~4, 14~5, 12~4]", "float32[6~4, 12~4, 14~5]")

CASES = (
    case(Add(), X, X),
    case(Add(), X, "float32[12~4]"),
    case(Mul(), X, X),
    case(Mul(), "float32[B, T, 3~2, 12~4]", "float32[3~2, 12~4]"),
    case(Scale(-0.5), X),
    case(Scale(7.3, stored=True), X),
    case(Softcap(2.0), X),
    case(Clamp(high=0.5), X),
    case(Clamp(low=-0.5, high=0.25), X),
    case(SigmoidGate(), X, X),
    case(SigmoidGate(), X, "float32[B, T, 1]"),
    case(Zeros(), X),
    case(Widen(), "bfloat16[B, T, 12~4]"),
    *(case(Activation(function), X) for function in ACTIVATIONS),
    case(GatedActivation("gelu"), X, X),
    case(RmsNorm(1e-6), X, "float32[12~4]"),
    case(RmsNorm(1e-2, offset=1.0), "float32[B, T, 3~2, 12~4]", "float32[12~4]"),
    case(RmsNorm(1e-6), X),
    case(LayerNorm(1e-6), X, "float32[12~4]", "float32[12~4]"),
    case(LayerNorm(1e-2, offset=1.0), "float32[B, T, 3~2, 12~4]", "float32[12~4]"),
    case(LayerNorm(1e-6), X),
    case(AddRmsNorm(1e-6), X, X, "float32[12~4]"),
    case(AddRmsNorm(1e-6), X, X),
    case(RmsNormLinear(1e-6), X, "float32[3~2, 5~7, 12~4]"),
    case(RmsNormLinear(1e-2, 1.0, "gelu"), X, "float32[2, 9~5, 12~4]", "float32[12~4]"),
    case(AddRmsNormLinear(1e-6), X, X, "float32[9~5, 12~4]", "float32[12~4]", "float32[9~5]"),
    case(AddRmsNormLinear(1e-6, activation="silu"), X, X, "float32[2, 9~5, 12~4]"),
    case(Einsum("btd,fd->btf"), X, "float32[9~5, 12~4]"),
    case(Einsum("btd,hkd->bthk"), X, "float32[3~2, 5~7, 12~4]"),
    case(Einsum("bthk,dhk->btd"), "float32[B, T, 3~2, 5~7]", "float32[12~4, 3~2, 5~7]"),
    case(Einsum("bthk,hkc->bthc"), "float32[B, T, 3~2, 5~7]", "float32[3~2, 5~7, 9~5]"),
    case(Embed(), "int64[B, T]", "float32[11~9, 12~4]"),
    case(Split((Dim(5, 1), Dim(7, 3))), X),
    case(Split((Dim(1, 1), Dim(2, 1)), axis=-2), "float32[B, T, 3~2, 12~4]"),
    *(
        case(op, X, "float32[9~5, 12~4]", "int64[B, T]")
        for op in (LinearCrossEntropy(), LinearCrossEntropy(0.5, 2.0))
    ),
    case(Unbind(), "float32[B, T, 2, 12~4]"),
    case(Unbind(axis=-1), "float32[B, T, 12~4, 3]"),
    case(Concat(), X, "float32[B, T, 3~2]", X),
    case(Concat(axis=-2), "float32[B, T, 3~2, 12~4]", "float32[B, T, 5~7, 12~4]"),
    case(Unflatten((Dim(6, 2), Dim(2, 2))), X),
    case(Unflatten((Dim(3, 2), Dim(2, 2)), axis=-2), "float32[B, T, 6~4, 12~4]"),
    case(Flatten(), "float32[B, T, 3~2, 12~4]"),
    case(Flatten(axis=-3), "float32[B, T, 3~2, 12~4, 5~7]"),
    case(Expand(Dim(3, 2)), X),
    *(
        case(Rotations(width=Dim(16, 12), theta=100.0, dtype="bfloat16", **scaling), "int64[B, T]")
        for scaling in SCALINGS
    ),
    *(
        case(Rope(interleaved), x, "float32[B, T, 6~2]", "float32[B, T, 6~2]")
        for interleaved in (False, True)
        for x in (X, "float32[B, T, 3~2, 12~4]")
    ),
    case(Cached("rows"), X, "int64[B, T]"),
    case(AppendHeads("k", "v", False), *HEADS, "float32[B, T, 4~3]", "float32[B, T, 4~3]"),
    case(
        AppendHeads("k", "v", True, eps=1e-2, offset=1.0),
        *(*HEADS, "float32[B, T, 3~2]", "float32[B, T, 3~2]", "float32[8~6]", "float32[8~6]"),
    ),
    case(AppendLatent("kv", True, 1e-6), *LATENT, "float32[9~5]"),
    case(AppendLatent("kv", False, 1e-6), *LATENT),
    case(
        AppendQuantizedLatent("r", "n", "s", True, 1e-2, 1.0, block=Dim(4, 3)),
        *(*LATENT, "float32[9~5]"),
    ),
    beside(
        *(PROJECT_HEADS, X, "float32[102~46, 12~4]", "int64[B, T]", *["float32[B, T, 3~2]"] * 2),
        residual=X,
        gain="float32[12~4]",
        bias="float32[102~46]",
        q_weight="float32[8~6]",
        k_weight="float32[8~6]",
    ),
    beside(
        replace(PROJECT_HEADS, row_offset=0.0, eps=None),
        *(X, "float32[102~46, 12~4]", "int64[B, T]", *["float32[B, T, 4~3]"] * 2),
    ),
    beside(
        *(PROJECT_LATENT, X, "float32[40~37, 12~4]", *ABSORBED),
        residual=X,
        gain="float32[12~4]",
        latent_gain="float32[9~5]",
    ),
    *(
        beside(
            *(
                replace(PROJECT_LATENT, offset=0.0, **kept),
                X,
                "float32[3~2, 9~13, 12~4]",
                *ABSORBED,
            ),
            gain="float32[12~4]",
            bias="float32[3~2, 9~13]",
            latent="float32[B, T, 9~5]",
            k_rope="float32[B, T, 4~6]",
        )
        for kept in ({}, {"caches": ("r", "n", "s"), "block": Dim(4, 3)})
    ),
    case(Attend(0.5), "float32[B, T, 6~4, 8~6]", *KEYS, "int64[B, T]"),
    case(
        Attend(0.5, window=Dim(3, 2), softcap=1.5),
        *("float32[B, T, 6~4, 8~6]", *KEYS, "int64[B, T]", "float32[6~4]"),
    ),
    *(
        case(Route(score, top_k=Dim(3, 2)), "float32[B, T, 6~4]", "float32[6~4]")
        for score in SCORES
    ),
    *(
        case(
            Route("sigmoid", Dim(2, 2), Dim(3, 2), Dim(2, 1), group_score, True, 2.5),
            "float32[B, T, 6~4]",
        )
        for group_score in ("max", "top2_sum")
    ),
    case(Route("softmax", Dim(2, 1), always=Dim(3, 2), always_weight=0.4), "float32[B, T, 6~4]"),
    case(Router("sigmoid", Dim(2, 1)), X, "float32[6~4, 12~4]", "float32[6~4]"),
    case(
        Router("sigmoid", Dim(2, 1), normalize=True, always=ONE),
        *("bfloat16[B, T, 12~4]", "bfloat16[6~4, 12~4]"),
    ),
    case(
        Router("softmax", Dim(2, 1), bias_of="logits"),
        *(X, "float32[6~4, 12~4]", "bfloat16[6~4]"),
    ),
    case(
        NormRouter("sigmoid", Dim(2, 1), eps=1e-6, offset=1.0),
        *(X, X, "float32[12~4]", "float32[6~4, 12~4]", "float32[6~4]"),
    ),
    case(
        NormRouter("softmax", Dim(2, 1), eps=1e-6),
        *(X, X, "float32[12~4]", "float32[6~4, 12~4]"),
    ),
    case(Experts("silu"), *EXPERTS, *TABLES),
    case(Experts("relu", always=Dim(2, 1)), *EXPERTS, *TABLES),
    case(FusedExperts("gelu"), *EXPERTS, "float32[6~4, 2, 14~5, 12~4]", TABLES[2]),
    case(
        Experts("silu", alpha=1.7, clamp=0.5, up_offset=1.0),
        *(*EXPERTS, *TABLES, "float32[6~4, 14~5]", "float32[6~4, 14~5]", "float32[6~4, 12~4]"),
    ),
    case(
        FusedExperts("gelu", Dim(2, 1), alpha=0.5, clamp=1.5),
        *(*EXPERTS, "float32[6~4, 2, 14~5, 12~4]", TABLES[2]),
        *("float32[6~4, 2, 14~5]", "float32[6~4, 12~4]"),
    ),
    case(QuantizedExperts("silu", Dim(2, 1), block=Dim(5, 3)), *EXPERTS, *in_blocks("int8")),
    case(
        QuantizedExperts("relu", clamp=0.7, block=Dim(5, 3), activations=True),
        *(*EXPERTS, *in_blocks("float8_e4m3fn")),
    ),
    case(QuantizeRows(Dim(5, 3)), X),
    case(QuantizeRows(), "bfloat16[B, T, 3~2, 12~4]"),
    case(DequantizeRows(Dim(5, 3)), *in_float8("T"), "float32[B, T, 6~5]"),
    case(
        QuantizedAttend(0.4, Dim(5, 3)),
        *("float32[B, T, 3~2, 18~9]", *in_float8("S"), "float32[B, S, 6~5]", "int64[B, T]"),
    ),
)


def samples(case: Case, which: Any, seed: int = 0) -> list[Any]:
    """Random operands of a case; integers are small enough to index whatever they may."""
    draw = np.random.default_rng(seed)
    arrays = []
    for type in case.operands:
        shape = type.sizes(which, **LENGTHS)
        integers = type.dtype == "int64"
        arrays.append(draw.integers(0, 4, shape) if integers else draw.standard_normal(shape))
    names = case.op.named(len(arrays))
    if "positions" in names:
        positions = arrays[names.index("positions")]
        if positions.ndim == 2:  # each once in a row
            positions[:] = np.argsort(draw.random(positions.shape), axis=1)
    return arrays
