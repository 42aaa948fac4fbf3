"""Calls of experts in 8 bits, with the interpreter's rounding to float8 mended."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.quantized import LARGEST, rounded
from archsmith.compiler.machine.target import Target
from archsmith.compiler.ops.quantized_experts import QuantizedExperts
from kernels.checks import Edit, Results, interpreted
from kernels.expert_cases import choices

# Of sums in float32 in another order, and of a hidden row and a result in the stored dtype.
CLOSE = {"float32": 2e-6, "float16": 2e-3}
FLOAT8 = "float8_e4m3fn"


def types(
    experts: int, top_k: int, width: int, inner: int, format: str, block: int
) -> tuple[str, ...]:
    """Of x, index, weight, gate_up, down and their scales."""
    tall, wide = -(-inner // block), -(-width // block)
    return (
        *(f"[B, T, {width}]", f"int64[B, T, {top_k}]", f"float32[B, T, {top_k}]"),
        *(f"{format}[{experts}, 2, {inner}, {width}]", f"{format}[{experts}, {width}, {inner}]"),
        *(f"float32[{experts}, 2, {tall}, {wide}]", f"float32[{experts}, {wide}, {tall}]"),
    )


def run(
    rows: int,
    experts: int,
    top_k: int,
    width: int,
    inner: int,
    *,
    format: str = FLOAT8,
    near: bool = False,
    block: int = 32,
    activation: str = "silu",
    dtype: str = "float16",
    chosen: tuple[int, ...] | None = None,
    always: int = 0,
    wrong: tuple[int, int] | None = None,
    target: str | Target = "h200",
    part_of: dict[str, int | tuple[int, ...]] | None = None,
    edit: Edit | None = None,
) -> tuple[Results, Results]:
    """Some x is zero for a block, whose scale is then one; `chosen` as for `expert_cases.run`.

    A number of the gate is none, of the expert and in the row that `wrong` says.
    """
    draws = np.random.default_rng(1)
    index = choices(draws, rows, experts, top_k, always, chosen)
    shapes = {"gate_up": (experts, 2, inner, width), "down": (experts, width, inner)}
    values = {"index": index[None]}
    for name, shape in shapes.items():
        drawn = draws.standard_normal(shape) * LARGEST[format] / 4
        values[name] = rounded(np.clip(drawn, -LARGEST[format], LARGEST[format]), format)
        counts = (*shape[:-2], *(-(-size // block) for size in shape[-2:]))
        scale = draws.uniform(0.5, 1.5, counts)
        values[f"{name}_scale"] = scale * 4 / LARGEST[format] / shape[-1] ** 0.5
    if wrong is not None:
        values["gate_up"][wrong[0], 0, wrong[1], 0] = np.nan
    values["x"] = draws.standard_normal((1, rows, width))
    if rows > 1 or width > block:  # or all that there is were zero
        values["x"][0, rows // 2, :block] = 0
    with rounding():
        return interpreted(
            "triton.quantized_gemm",
            QuantizedExperts(
                activation, always=Dim.of(always), block=Dim.of(block), activations=near
            ),
            types(experts, top_k, width, inner, format, block),
            Sizes(1, rows, rows),
            dtype=dtype,
            values=values,
            part_of=part_of,
            target=target,
            edit=edit,
        )


@contextmanager
def rounding() -> Iterator[None]:
    """Let the interpreter round float32 to E4M3 as GPUs do; its own loses what is carried over."""
    interpreter: Any = importlib.import_module("triton.runtime.interpreter")
    tl: Any = importlib.import_module("triton.language")
    own = interpreter._convert_float

    def convert(value: Any, given: Any, wanted: Any, mode: Any) -> Any:
        if (given, wanted) != (tl.float32, tl.float8e4nv):
            return own(value, given, wanted, mode)
        near = torch.from_numpy(value.copy()).to(torch.float8_e4m3fn)
        return near.view(torch.uint8).numpy()

    with patch.object(interpreter, "_convert_float", convert):
        yield
