"""Products of few normed rows in Triton: against their ops in float64, between guards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.machine.target import Target
from archsmith.compiler.ops.norm_linear import AddRmsNormLinear, RmsNormLinear
from archsmith.compiler.plugins import Registry
from kernels.checks import Edit, Results, differ, emitted, holds, interpreted

CLOSE = {"float32": 2e-6, "float16": 1e-3}
# On a CPU, what is launched for more rows would be computed by PyTorch.
LAUNCHED = [
    (f" {name}(", f" {name}.launch(")
    for name in ("= add_rms_norm", "= rms_norm", "return gated_activation")
]
IN_FLOAT16 = ("x.dtype == torch.float16", "False")


@dataclass(frozen=True)
class Form:
    """What is done to rows beside their product."""

    added: bool = True
    gain: bool = True
    bias: bool = False
    offset: float = 0.0
    activation: str | None = None

    def __str__(self) -> str:
        words = ("added", "gain", "bias", "offset", "activation")
        return "-".join(str(getattr(self, w) or "") and w for w in words if getattr(self, w))


FORMS = [
    Form(),
    Form(activation="silu"),
    Form(added=False, offset=1.0),
    Form(bias=True),
    Form(gain=False),
    Form(activation="gelu_tanh", offset=1.0),
    Form(added=False, bias=True, activation="gelu"),
    Form(activation="relu", bias=True),
    Form(added=False, gain=False),
]


def run(
    rows: int,
    columns: int,
    width: int,
    form: Form,
    dtype: str,
    *changes: tuple[str, str],
    target: str | Target = "h200",
    tokens: int = 1,
    wider: int = 0,
) -> tuple[Results, Results]:
    """Operands are parts of wider rows, where they are to be."""
    kind = AddRmsNormLinear if form.added else RmsNormLinear
    op = kind(1e-2, form.offset, form.activation)
    out = f"{columns}" if form.activation is None else f"2, {columns}"
    types = [f"[B, T, {width}]"] * (1 + form.added) + [f"[{out}, {width}]"]
    types += [f"[{width}]"] * form.gain + [f"[{out}]"] * form.bias

    def edit(text: str) -> str:
        for change in (*LAUNCHED, *changes):
            text = text.replace(*change)
        return text

    return interpreted(
        f"triton.{op.name}",
        op,
        types,
        Sizes(rows // tokens, tokens, 9),
        dtype=dtype,
        part_of={"x": width + wider, "residual": width + 2 * wider, "weight": width + wider},
        target=target,
        edit=edit,
        phases=("decode",),
    )


# Rows, columns and width: more than the limit are left to others.
SHAPES = [
    (1, 1, 1),
    (1, 8, 16),
    (1, 16, 256),
    (1, 20, 70),
    (1, 33, 1024),
    (1, 40, 1536),
    (1, 64, 2048),
    (1, 17, 2880),  # of no whole tiles
    (1, 130, 264),
    (2, 1, 1),
    (2, 16, 64),
    (2, 20, 70),
    (3, 33, 128),
    (4, 64, 256),
    (5, 70, 40),
    (7, 24, 384),
    (8, 130, 64),
    (9, 15, 1000),
    (12, 48, 96),
    (15, 32, 512),
    (16, 16, 16),
    (16, 33, 70),
    (16, 128, 200),
    (17, 20, 40),
    (17, 64, 128),
    (40, 24, 64),
]
CASES = [(*shape, FORMS[i % len(FORMS)]) for i, shape in enumerate(SHAPES)]
# Each form by itself with one row, with some and with more.
CASES += [(rows, 20, 70, form) for form in FORMS for rows in (1, 6)]
CASES += [(17, 20, 70, form) for form in FORMS[:3]]


DTYPES = [("float32", case) for case in CASES] + [("float16", case) for case in CASES[::2]]


@pytest.mark.parametrize(
    ("dtype", "case"), DTYPES, ids=lambda x: x if isinstance(x, str) else "{}x{}x{}-{}".format(*x)
)
def test_norm_linear(dtype: str, case: tuple[int, int, int, Form]) -> None:
    rows, columns, width, form = case
    tokens = 3 if rows % 3 == 0 else 1
    found = run(rows, columns, width, form, dtype, tokens=tokens, wider=rows % 2 * 5)
    assert differ(*found) < CLOSE[dtype]


@pytest.mark.parametrize("target", ["a100", "b200", "mi300x"])
@pytest.mark.parametrize("rows", [1, 5])
def test_other_targets(target: str, rows: int) -> None:
    assert differ(*run(rows, 70, 200, FORMS[1], "float32", target=target)) < CLOSE["float32"]


@pytest.mark.parametrize("form", FORMS[:3], ids=str)
def test_rows_are_rounded_as_well_as_normed_ones(form: Form) -> None:
    """In 16 bits a row is rounded before it is divided by its size, and not behind: no worse."""
    at_once = spread(*run(6, 40, 256, form, "float16", IN_FLOAT16))
    assert at_once < 1.1 * spread(*run(6, 40, 256, form, "float16"))


def spread(found: Results, wanted: Results) -> float:
    """The root mean square of a product's errors, by that of the product."""
    y, exact = found[-1], wanted[-1]
    return float(np.linalg.norm(y - exact) / np.linalg.norm(exact))


def test_what_is_left_to_others(registry: Registry) -> None:
    kernel = registry.kernels["triton.rms_norm_linear"]()
    types = tuple(map(TensorType.parse, ("bfloat16[B, T, 64]", "bfloat16[32, 64]")))
    module = emitted(kernel, {RmsNormLinear(1e-6): types}, "h200")

    def tile(rows: int, dtype: torch.dtype) -> object:
        return module._tile(torch.empty(rows, 1, 64, dtype=dtype), torch.empty(32, 64), None)

    assert tile(1, torch.float16) == tile(1, torch.bfloat16) != tile(2, torch.bfloat16)
    assert tile(2, torch.bfloat16) == tile(16, torch.bfloat16) is not None
    assert tile(17, torch.bfloat16) is tile(2, torch.float16) is None


def test_the_same_call_gives_the_same_bits() -> None:
    for rows in (1, 7):
        first, again = (run(rows, 48, 300, FORMS[0], "float32")[0] for _ in range(2))
        np.testing.assert_array_equal(first[1], again[1])


BROKEN = {
    "up is gate": (1, "(N + at) * weight_row", "at * weight_row"),
    "no program stores the sum": (1, " + (total is not None)", ""),
    "the last columns are left out": (1, "triton.cdiv(columns, tile", "columns // (tile"),
    "columns past the last are written": (1, "mask=column < N)", "mask=column < N + 1)"),
    "rows are not divided by their size": (5, "tl.rsqrt(", "1.0 + 0.0 * tl.rsqrt("),
    "a gain has no offset": (5, "+ OFFSET", ""),
    "the bias of up is the gate's": (5, "bias_ptr + N + column", "bias_ptr + column"),
    "weights are taken to be dense": (5, "weight_ptr + at * weight_row", "weight_ptr + at * K"),
    "sums end early": (5, "range(0, K, BLOCK_K", "range(0, K - BLOCK_K, BLOCK_K"),
    "residuals are taken to be dense": (5, "row * residual_row", "row * K"),
    "rows past the last are written": (5, "inside = (row < rows) &", "inside = (row <= rows) &"),
    "a row is divided by all rows' size": (
        5,
        "tl.sum(square, 1)",
        "0 * tl.arange(0, BLOCK_M) + tl.sum(square)",
    ),
}


def broken(rows: int, *changes: tuple[str, str]) -> bool:
    """Whether a kernel does what its op says, with so many changes to its text."""
    form = Form(bias=True, offset=1.0, activation="silu")

    def found(edit: Edit | None) -> tuple[Results, Results]:
        return run(rows, 36, 140, form, "float32", *changes, wider=4)

    return not holds(found, None, CLOSE["float32"])


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_caught(change: tuple[int, str, str]) -> None:
    rows, *edit = change
    assert broken(rows, (edit[0], edit[1]))


@pytest.mark.parametrize("rows", [1, 5])
def test_what_is_whole_holds(rows: int) -> None:
    assert not broken(rows)
