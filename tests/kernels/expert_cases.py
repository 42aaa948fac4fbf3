"""Calls of grouped experts, and ways to break their text, for several tests."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.machine.target import Target
from archsmith.compiler.ops.experts import FusedExperts
from kernels.checks import Edit, Results, interpreted, registry

# Of sums in float32 in another order, and of a hidden row and a result in the stored dtype.
CLOSE = {"float32": 2e-6, "float16": 2e-3}


def single(target: str) -> Target:
    """The target with one processor: then no tile is made narrower to keep all of them busy."""
    return replace(registry().targets[target], processors=1)


def types(experts: int, top_k: int, width: int, inner: int) -> tuple[str, ...]:
    """Of x, index, weight, gate_up and down."""
    return (
        f"[B, T, {width}]",
        f"int64[B, T, {top_k}]",
        f"float32[B, T, {top_k}]",
        f"[{experts}, 2, {inner}, {width}]",
        f"[{experts}, {width}, {inner}]",
    )


def choices(
    draws: np.random.Generator,
    rows: int,
    experts: int,
    top_k: int,
    always: int,
    chosen: tuple[int, ...] | None,
) -> np.ndarray:
    """Of each row; `chosen` are the experts that tokens choose from, all of them where nothing is
    said, but for the last `always`, which every token uses."""
    among = np.arange(experts - always) if chosen is None else np.array(chosen)
    index = np.stack([draws.permutation(among)[: top_k - always] for _ in range(rows)])
    last = np.arange(experts - always, experts)
    return np.concatenate([index, np.broadcast_to(last, (rows, always))], axis=1)


def drawn(
    rows: int,
    experts: int,
    top_k: int,
    width: int,
    inner: int,
    batch: int,
    always: int,
    chosen: tuple[int, ...] | None,
) -> dict[str, np.ndarray]:
    """Choices, as of `choices`, and weights."""
    draws = np.random.default_rng(1)
    index = choices(draws, rows, experts, top_k, always, chosen)
    return {
        "index": index.reshape(batch, rows // batch, top_k),
        "gate_up": draws.standard_normal((experts, 2, inner, width)) / width**0.5,
        "down": draws.standard_normal((experts, width, inner)) / inner**0.5,
    }


def run(
    rows: int,
    experts: int,
    top_k: int,
    width: int,
    inner: int,
    *,
    activation: str = "silu",
    dtype: str = "float32",
    chosen: tuple[int, ...] | None = None,
    always: int = 0,
    target: str | Target = "h200",
    batch: int = 1,
    part_of: dict[str, int | tuple[int, ...]] | None = None,
    edit: Edit | None = None,
) -> tuple[Results, Results]:
    """The experts' kernel, of what `drawn` gives."""
    values = drawn(rows, experts, top_k, width, inner, batch, always, chosen)
    return interpreted(
        "triton.grouped_gemm",
        FusedExperts(activation, always=Dim.of(always)),
        types(experts, top_k, width, inner),
        Sizes(batch, rows // batch, rows // batch),
        dtype=dtype,
        values=values,
        part_of=part_of,
        target=target,
        edit=edit,
    )


def changed(*pairs: tuple[str, str]) -> Edit:
    """Replaces texts wherever they stand; `checks.emitted` sees where there is none."""

    def edit(text: str) -> str:
        for old, new in pairs:
            text = text.replace(old, new)
        return text

    return edit


# What both families of grouped products have, and what is broken of it.
LAST_ARRIVES = {
    "nobody sums": ("== tiles - 1:", "== tiles:"),
    "the first to arrive sums": ("== tiles - 1:", "== 0:"),
    "who arrived is not set to zero": ("mask=at < COLUMNS", "mask=at < 0"),
    "only tiles that have rows arrive": (
        "if arrived_ptr is not None and not gated:",
        "if arrived_ptr is not None and not gated and expert >= 0:",
    ),
}
DESCRIBED = {
    "all columns are one's": ("arrived_ptr + column,", "arrived_ptr,"),
    "too few are set to zero": ("triton.next_power_of_2(triton.cdiv(D, down_n))", "1"),
    "a tile is the next row's": ("weight.load([row, start])", "weight.load([row + 1, start])"),
    "a tile stays where it is": ("weight.load([row, start])", "weight.load([row, 0])"),
    "a tile is always an expert's first": ("+ column * BLOCK_N\n", "\n"),
}
