"""RMS norms in Triton: against their ops in float64, on rows of any width."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.norm import AddRmsNorm, RmsNorm
from archsmith.compiler.schedule.code import name
from kernels.checks import (
    Edit,
    Results,
    as_arrays,
    differ,
    emitted,
    holds,
    interpreted,
    registry,
)

# Of a few roundings to the stored dtype, and of a sum in float32 in another order.
CLOSE = {"float32": 2e-6, "float16": 1e-3}
WIDTHS = (1, 2, 3, 7, 8, 16, 31, 64, 100, 127, 128, 129, 300, 512, 576, 1000, 1024, 2048, 2049)
ROWS = (Sizes(1, 1, 1), Sizes(2, 5, 5), Sizes(3, 33, 33))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("width", WIDTHS)
def test_rms_norm(width: int, dtype: str) -> None:
    for sizes in ROWS:
        found = interpreted(
            "triton.rms_norm", RmsNorm(1e-6), [f"[B, T, {width}]", f"[{width}]"], sizes, dtype=dtype
        )
        assert differ(*found) < CLOSE[dtype]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("width", WIDTHS)
def test_add_rms_norm(width: int, dtype: str) -> None:
    row = f"[B, T, {width}]"
    for sizes in ROWS:
        found = interpreted(
            "triton.add_rms_norm", AddRmsNorm(1e-5), [row, row, f"[{width}]"], sizes, dtype=dtype
        )
        assert differ(*found) < CLOSE[dtype]


@pytest.mark.parametrize("width", [64, 100])
def test_a_stored_weight_may_be_less_by_one(width: int) -> None:
    row, gain, sizes = f"[B, T, {width}]", f"[{width}]", Sizes(2, 5, 5)
    norm, fused = RmsNorm(1e-6, offset=1.0), AddRmsNorm(1e-6, offset=1.0)
    one = interpreted("triton.rms_norm", norm, [row, gain], sizes, dtype="float32")
    other = interpreted("triton.add_rms_norm", fused, [row, row, gain], sizes, dtype="float32")
    assert max(differ(*one), differ(*other)) < CLOSE["float32"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("width", WIDTHS[::2])
def test_rows_may_be_normed_alone(width: int, dtype: str) -> None:
    row = f"[B, T, {width}]"
    for sizes in ROWS:
        norm = interpreted("triton.rms_norm", RmsNorm(1e-6), [row], sizes, dtype=dtype)
        fused = interpreted("triton.add_rms_norm", AddRmsNorm(1e-5), [row, row], sizes, dtype=dtype)
        assert max(differ(*norm), differ(*fused)) < CLOSE[dtype]


@pytest.mark.parametrize("width", [64, 100])
@pytest.mark.parametrize("op", [RmsNorm, AddRmsNorm])
def test_one_text_serves_rows_with_a_gain_and_without(op: type[Any], width: int) -> None:
    row, gain = (TensorType.parse(f"float32[{axes}{width}]") for axes in ("B, T, ", ""))
    rows = (row,) * (1 if op is RmsNorm else 2)
    given = {op(0.1): rows, op(0.1, offset=0.5): (*rows, gain)}
    kernel = registry().kernels[f"triton.{op.name}"]()
    module = emitted(kernel, given, "h200")
    for each, types in given.items():
        names = each.operand_names()[: len(types)]
        operands = {
            key: torch.randn(type.sizes("size", B=3, T=11))
            for key, type in zip(names, types, strict=True)
        }
        code = kernel.call(each, *map(name, names), phases=("prefill",))
        found = eval(code.text, {op.name: getattr(module, op.name).launch, **operands})
        wanted = each.reference(*(tensor.double().numpy() for tensor in operands.values()))
        assert differ(as_arrays(found), as_arrays(wanted)) < CLOSE["float32"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("heads", "width"), [(1, 64), (3, 20), (6, 128), (17, 100)])
def test_heads_may_be_some_of_wider_ones(heads: int, width: int, dtype: str) -> None:
    wider = (heads + 2, width), (heads, width + 8), (heads + 3, width + 1)
    for sizes, whole in zip(ROWS, wider, strict=True):
        found = interpreted(
            "triton.rms_norm",
            RmsNorm(1e-6),
            [f"[B, T, {heads}, {width}]", f"[{width}]"],
            sizes,
            dtype=dtype,
            part_of={"x": whole},
        )
        assert differ(*found) < CLOSE[dtype]


BROKEN = {
    "a square is left out": ("tl.sum(x * x", "tl.sum(x"),
    "the mean is over the tile": (" / N + EPS", " / BLOCK + EPS"),
    "eps is left out": (" / N + EPS", " / N"),
    "the gain is left out": ("y = x * rstd * weight", "y = x * rstd"),
    "rows past the last are written": ("(row < rows) & (column < N)", "(row < rows + 1)"),
    "columns past the last are read": ("(row < rows) & (column < N)", "row < rows"),
    "rows are taken to be dense": ("row * x_stride", "row * N"),
    "results are spaced like tiles": ("y_ptr + row * N", "y_ptr + row * BLOCK"),
    "the last rows are left out": ("triton.cdiv(len(rows)", "int.__floordiv__(len(rows)"),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_caught(change: tuple[str, str]) -> None:
    def run(edit: Edit | None) -> tuple[Results, Results]:
        return interpreted(
            "triton.rms_norm",
            RmsNorm(0.1),
            ["[B, T, 100]", "[100]"],
            Sizes(3, 11, 11),
            dtype="float32",
            part_of={"x": 130},
            edit=edit,
        )

    assert holds(run, None, CLOSE["float32"])
    assert not holds(run, lambda text: text.replace(*change), CLOSE["float32"])


BROKEN_HEADS = {
    "heads are taken to be dense": ("(row % H) * head_stride", "(row % H) * N"),
    "tokens are taken to be dense": ("(row // H) * token_stride", "(row // H) * H * head_stride"),
    "all heads are the first": (" + (row % H) * head_stride", ""),
    "heads of other tokens count": ("rows = len(tokens) * heads", "rows = len(tokens)"),
}


@pytest.mark.parametrize("change", BROKEN_HEADS.values(), ids=BROKEN_HEADS)
def test_what_is_broken_of_heads_is_caught(change: tuple[str, str]) -> None:
    def run(edit: Edit | None) -> tuple[Results, Results]:
        return interpreted(
            "triton.rms_norm",
            RmsNorm(0.1, offset=1.0),
            ["[B, T, 3, 100]", "[100]"],
            Sizes(3, 11, 11),
            dtype="float32",
            part_of={"x": (5, 130)},
            edit=edit,
        )

    assert holds(run, None, CLOSE["float32"])
    assert not holds(run, lambda text: text.replace(*change), CLOSE["float32"])
