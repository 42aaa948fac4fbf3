"""Gradients of the small kernels in Triton: against PyTorch's autograd in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.elementwise import ACTIVATIONS, GatedActivation
from archsmith.compiler.ops.norm import AddRmsNorm, RmsNorm
from archsmith.compiler.ops.position import Rope
from archsmith.compiler.schedule.code import name
from kernels.checks import Edit, Results, differ, drawn, emitted, gradients, holds, registry

# Of a rounding to the stored dtype, and of sums in float32 in another order.
CLOSE = {"float32": 3e-6, "float16": 1e-3}
FEW, SOME, MANY = Sizes(1, 1, 1), Sizes(2, 7, 7), Sizes(3, 33, 33)
WIDTHS = (1, 7, 64, 100, 127, 512, 1000, 2049)


def norm(width: int, sizes: Sizes, dtype: str, offset: float = 0.0, **options: Any) -> Any:
    op, row, gain = RmsNorm(0.1, offset), f"[B, T, {width}]", f"[{width}]"
    of = ("x", "weight")
    kernel = "triton.rms_norm_gradients"
    return gradients(kernel, op, [row, gain], sizes, of=of, dtype=dtype, **options)


def added(width: int, sizes: Sizes, dtype: str, offset: float = 0.0, **options: Any) -> Any:
    """The sum is what x is, so that it is the same in any dtype."""
    op, row, gain = AddRmsNorm(0.1, offset), f"[B, T, {width}]", f"[{width}]"
    values = {"residual": np.zeros((sizes.batch, sizes.tokens, width))}
    options = {"of": ("x", "weight"), "dtype": dtype, "values": values, **options}
    return gradients("triton.add_rms_norm_gradients", op, [row, row, gain], sizes, **options)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("run", [norm, added])
@pytest.mark.parametrize("width", WIDTHS)
def test_norms(width: int, run: Any, dtype: str) -> None:
    for sizes in (Sizes(1, 3, 3),) if width > 1000 else (FEW, SOME if width > 7 else MANY):
        assert differ(*run(width, sizes, dtype)) < CLOSE[dtype]


def test_a_program_takes_rows_in_turn_and_all_sums_are_added() -> None:
    """More rows than all programs take at a time, and more programs than are added at a time."""

    def run(edit: Edit | None) -> tuple[Results, Results]:
        def narrow(text: str) -> str:
            text = text.replace('"ROWS": 2048', '"ROWS": 1').replace("{2: 264}", "{2: 9}")
            text = text.replace('"PARTS": 128', '"PARTS": 8')
            return edit(text) if edit else text

        return norm(2, Sizes(1, 20, 20), "float32", edit=narrow)

    assert holds(run, None, CLOSE["float32"])
    step = "tl.num_programs(0) * ROWS"
    assert not holds(run, lambda text: text.replace(step, f"{step} + 1"), CLOSE["float32"])
    assert not holds(run, lambda text: text.replace("programs, PARTS)", "PARTS, PARTS)"), 1e-6)


@pytest.mark.parametrize("run", [norm, added])
def test_a_stored_weight_may_be_less_by_one(run: Any) -> None:
    assert differ(*run(100, MANY, "float32", offset=1.0)) < CLOSE["float32"]


@pytest.mark.parametrize("width", [1, 64, 100])
def test_rows_may_be_normed_alone(width: int) -> None:
    row, options = f"[B, T, {width}]", {"of": ("x",), "dtype": "float32"}
    one = gradients("triton.rms_norm_gradients", RmsNorm(0.1), [row], MANY, **options)
    zeros = {"residual": np.zeros((3, 33, width))}
    op, kernel = AddRmsNorm(0.1), "triton.add_rms_norm_gradients"
    other = gradients(kernel, op, [row, row], MANY, values=zeros, **options)
    assert max(differ(*one), differ(*other)) < CLOSE["float32"]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("heads", "width"), [(1, 64), (3, 20), (6, 128), (17, 100)])
def test_rows_may_be_heads_of_wider_ones(heads: int, width: int, dtype: str) -> None:
    for x, dy in (((heads, width), (heads + 3, width + 1)), ((heads + 2, width + 8), (0, 0))):
        found = norm_of_heads(heads, width, dtype, part_of={"x": x, "gradient_0": dy})
        assert differ(*found) < CLOSE[dtype]


def norm_of_heads(heads: int, width: int, dtype: str, **options: Any) -> Any:
    shapes = [f"[B, T, {heads}, {width}]", f"[{width}]"]
    options = {"of": ("x", "weight"), "dtype": dtype, **options}
    return gradients("triton.rms_norm_gradients", RmsNorm(0.1), shapes, Sizes(3, 11, 11), **options)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("width", [1, 3, 31, 64, 1000, 1024, 1025, 2050])
def test_gated_activation(width: int, dtype: str) -> None:
    for sizes in (FEW, SOME):
        assert differ(*gated("silu", width, sizes, dtype)) < CLOSE[dtype]


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_every_activation(function: str) -> None:
    steep = np.linspace(-30, 30, 2 * 7 * 100).reshape(2, 7, 100)
    for values in ({}, {"gate": steep}):
        found = gated(function, 100, SOME, "float32", values=values)
        assert differ(*found) < CLOSE["float32"]


def gated(function: str, width: int, sizes: Sizes, dtype: str, **options: Any) -> Any:
    op, row = GatedActivation(function), f"[B, T, {width}]"
    options = {"of": ("gate", "up"), "dtype": dtype, **options}
    return gradients("triton.gated_activation_gradients", op, [row, row], sizes, **options)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", ["2", "100", "1, 64", "3, 6", "16, 128", "40, 10", "129, 96"])
def test_rope(shape: str, dtype: str, interleaved: bool) -> None:
    wider = 8 + int(shape.split()[-1]) if dtype == "float32" else 0  # a part of a head, and a whole
    found = turned(shape, Sizes(2, 3, 3), dtype, interleaved, part_of={"gradient_0": wider})
    assert differ(*found) < CLOSE[dtype]


def turned(shape: str, sizes: Sizes, dtype: str, interleaved: bool, **options: Any) -> Any:
    table = f"float32[B, T, {int(shape.split()[-1]) // 2}]"
    shapes = [f"[B, T, {shape}]", table, table]
    options = {"of": ("x",), "dtype": dtype, **options}
    return gradients("triton.rope_gradients", Rope(interleaved), shapes, sizes, **options)


@pytest.mark.parametrize("unwanted", [("x",), ("weight",), ("x", "weight")])
def test_what_is_not_wanted_of_a_norm_is_not_computed(unwanted: tuple[str, ...]) -> None:
    for run in (norm, added):
        assert differ(*run(100, MANY, "float32", unwanted=unwanted)) < CLOSE["float32"]


@pytest.mark.parametrize("unwanted", [("gate",), ("up",)])
def test_what_is_not_wanted_of_a_gate_is_not_computed(unwanted: tuple[str, ...]) -> None:
    found = gated("gelu", 100, MANY, "float32", unwanted=unwanted)
    assert differ(*found) < CLOSE["float32"]


def test_what_does_not_fit_is_left_to_pytorch() -> None:
    norms, chip = registry().kernels["triton.rms_norm_gradients"](), registry().targets["h200"]
    row = (TensorType.parse("bfloat16[B, T, 8193]"),)
    assert norms.refuses(RmsNorm(0.1), row, chip) == (
        "a row of 8193 and its gradient do not fit one program: at most 8192"
    )
    wide = (TensorType.parse("float64[B, T, 64]"),)
    for kernel in ("rms_norm", "add_rms_norm", "rope"):
        refusal = registry().kernels[f"triton.{kernel}_gradients"]().refuses(None, wide, chip)
        assert refusal == "float64 is computed by PyTorch"


@pytest.mark.parametrize(
    ("kernel", "op", "shapes"),
    [
        ("rms_norm", RmsNorm(0.1, 1.0), ["[B, T, 5]", "[5]"]),
        ("add_rms_norm", AddRmsNorm(0.1), ["[B, T, 5]", "[B, T, 5]", "[5]"]),
        *(("gated_activation", GatedActivation(f), ["[B, T, 5]"] * 2) for f in ACTIVATIONS),
        *(("rope", Rope(i), ["[B, T, 2, 6]", *["[B, T, 3]"] * 2]) for i in (False, True)),
    ],
    ids=str,
)
def test_what_they_are_held_to_has_the_gradients_of_its_results(
    kernel: str, op: Any, shapes: list[str]
) -> None:
    """By differences of the results, in float64."""
    family = registry().kernels[f"triton.{kernel}"]()
    types = tuple(TensorType.parse(f"float32{shape}") for shape in shapes)
    names = op.operand_names()[: len(types)]
    operands = drawn(dict(zip(names, types, strict=True)), SOME, {}, {})
    code = family.call(op.at("size"), *map(name, names), phases=("train",))
    reference = getattr(emitted(family, {op: types}, "h200"), kernel).reference

    def results(*given: torch.Tensor) -> Any:
        return eval(code.text, {kernel: reference, **dict(zip(names, given, strict=True))})

    exact = [x[:1, :2].double() if x.dim() > 1 else x.double() for x in operands.values()]
    assert torch.autograd.gradcheck(results, [x.requires_grad_() for x in exact])


NORM = {
    "the row's own direction stays": ("dy * gain - x * along", "dy * gain"),
    "a gradient along the row is of another length": (" * rstd * rstd / N", " * rstd / N"),
    "the mean is over the tile": ("* rstd * rstd / N", "* rstd * rstd / BLOCK"),
    "the mean square is over the tile": (" / N + EPS", " / BLOCK + EPS"),
    "eps is left out": (" / N + EPS", " / N"),
    "the gain is left out": ("dy * gain - x", "dy - x"),
    "the gain counts twice": ("sums += dy * x", "sums += dy * gain * x"),
    "rows are taken to be dense": ("row * x_stride", "row * N"),
    "gradients are taken to be dense": ("row * dy_stride", "row * N"),
    "results are spaced like tiles": ("dx_ptr + row * N", "dx_ptr + row * BLOCK"),
    "rows past the last are written": ("(row < rows) & ", ""),
    "columns past the last are read": (" & (column < N)\n        x", "\n        x"),
    "rows are taken by several": ("tl.num_programs(0) * ROWS", "ROWS"),
    "the last program's sums are left out": ("programs, N=width", "programs - 1, N=width"),
    "sums of programs are one": ("program * N + column", "column"),
}
ADDED = {
    **NORM,
    "the sum's own gradient is left out": ("dx += tl", "dx += 0 * tl"),
    "the sum's own gradient is taken to be dense": ("row * dtotal_stride", "row * N"),
}
GATED = {
    "up is left out": ("dy * up * slope", "dy * slope"),
    "the slope is left out": ("dy * up * slope", "dy * up"),
    "the other's gradient": ("(dy * value)", "(up * value)"),
    "a slope of another function": ("(1.0 - tl.sigmoid(gate))", "(2.0 - tl.sigmoid(gate))"),
    "the gate's rows are taken to be dense": ("row * gate_stride", "row * N"),
    "up's rows are taken to be dense": ("row * up_stride", "row * N"),
    "gradients are taken to be dense": ("row * dy_stride", "row * N"),
    "results are spaced like tiles": ("dup_ptr + row * N", "dup_ptr + row * BLOCK"),
    "the last columns are left out": ("triton.cdiv(width, ", "int(width / "),
    "columns past the last are written": (
        "to(dup_ptr.dtype.element_ty), mask=mask",
        "to(dup_ptr.dtype.element_ty)",
    ),
}
ROPE = {
    "it turns on": ("sin = -sin", "sin = sin"),
    "the result is turned, not its gradient": ("_turned(dy, ", "_turned(x, "),
    "the angle is doubled": ("back=True", "back=False"),
    "a sign": ("a * cos - b * sin", "a * cos + b * sin"),
    "a pair's members change places": ("b * cos + a * sin", "a * cos + b * sin"),
    "heads are taken to be dense": ("head * head_stride", "head * K"),
    "all tokens turn like the first": ("turn = token * (K // 2) + pair", "turn = pair"),
    "heads past the last are written": ("(head < H) & ", ""),
}
PART = {"x": 130, "gradient_0": 140, "gradient_1": 150}
RUNS: dict[str, tuple[Any, dict[str, tuple[str, str]]]] = {
    "rms_norm": (lambda edit: norm(100, MANY, "float32", part_of=PART, edit=edit), NORM),
    "add_rms_norm": (lambda edit: added(100, MANY, "float32", part_of=PART, edit=edit), ADDED),
    "gated_activation": (
        lambda edit: gated(
            "silu",
            1030,
            Sizes(2, 5, 5),
            "float32",
            part_of={"gate": 1100, "up": 1200, "gradient_0": 1300},
            edit=edit,
        ),
        GATED,
    ),
    "rope": (
        lambda edit: turned(
            "129, 40", Sizes(2, 3, 3), "float32", False, part_of={"gradient_0": 50}, edit=edit
        ),
        ROPE,
    ),
}


@pytest.mark.parametrize("family", RUNS)
def test_what_is_right_holds(family: str) -> None:
    run, _ = RUNS[family]
    assert holds(run, None, CLOSE["float32"])


@pytest.mark.parametrize(
    ("family", "what"), [(family, what) for family, (_, broken) in RUNS.items() for what in broken]
)
def test_what_is_broken_is_caught(family: str, what: str) -> None:
    run, broken = RUNS[family]
    change = broken[what]
    assert not holds(run, lambda text: text.replace(*change), CLOSE["float32"])
