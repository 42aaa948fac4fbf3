"""Rows in float8 in Triton: against their op in float64, and every number of the format."""

from __future__ import annotations

import numpy as np
import pytest
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ops.quantized_rows import QuantizeRows
from kernels.checks import Edit, Results, holds, interpreted


def run(
    x: np.ndarray, block: int, dtype: str = "float32", edit: Edit | None = None
) -> tuple[Results, Results]:
    """Numbers and scales of rows x [B, T, D]."""
    return interpreted(
        "triton.quantize_rows",
        QuantizeRows(Dim.of(block)),
        [f"[B, T, {x.shape[-1]}]"],
        Sizes(*x.shape[:2], x.shape[1]),
        dtype=dtype,
        values={"x": x},
        edit=edit,
        phases=("decode",),
    )


def differ(found: Results, wanted: Results) -> float:
    """How many numbers are not the same, or of scales, how far they are apart."""
    (numbers, scales), (exact, units) = found, wanted
    return max(float((numbers != exact).mean()), float(np.abs(scales / units - 1).max()))


def rows(columns: int, tokens: int = 5) -> np.ndarray:
    """Of all magnitudes, one of them zero in part."""
    draws = np.random.default_rng(3)
    x = draws.standard_normal((2, tokens, columns)) * np.exp2(draws.integers(-12, 2, columns))
    x[1, tokens // 2, :16] = 0.0
    return np.asarray(x)


@pytest.mark.parametrize(
    ("columns", "block", "dtype"),
    [
        *((512, 128, "float16"), (40, 16, "float32"), (24, 128, "float32")),
        *((1, 32, "float16"), (100, 4, "float16")),
    ],
)
def test_rows_of_any_width(columns: int, block: int, dtype: str) -> None:
    # A number may lie between two, as near as float32 tells.
    assert differ(*run(rows(columns), block, dtype)) <= 1e-6


def every() -> np.ndarray:
    """Every number of E4M3 in rows of 40, and what lies half between two and right beside it.

    Each block of 16 has the largest, so that its scale is one; but one is zero, and one small.
    """
    bits = np.arange(127)
    exponent, fraction = bits >> 3, bits & 7
    numbers = np.where(exponent == 0, fraction * 2.0**-9, (8 + fraction) * 2.0 ** (exponent - 10.0))
    between = (numbers[1:] + numbers[:-1]) / 2
    near = [between * (1 + sign * 2.0**-20) for sign in (-1, 1)]
    x = np.concatenate((numbers, between, *near))
    x = np.concatenate((x, -x))
    x = np.pad(x, (0, -len(x) % 37)).reshape(1, -1, 37)
    x = np.insert(x, (0, 15, 30), 448.0, axis=-1)
    x[0, -1, 16:32] = 0.0
    x[0, -2, 32:] /= 8
    return x


def test_every_number_and_what_lies_between() -> None:
    """The nearest of them; of two the even one."""
    found, wanted = run(every(), 16)
    assert np.array_equal(found[0], wanted[0])
    assert np.array_equal(found[1], wanted[1])
    assert (found[1] == 1).sum() == found[1].size - 1
    assert len({*np.abs(found[0]).ravel()}) == 127


BROKEN = {
    "halves are rounded up": ("+ ((bits >> 20) & 1)", "+ 1"),
    "what is cut off is not rounded": ("0x7FFFF", "0"),
    "small numbers are those of larger ones": ("size < 0.015625", "size < 0.0"),
    "signs are lost": ("& 128)).to", "& 0)).to"),
    "a scale is the largest number": ("tl.div_rn(top, 448.0)", "top"),
    "zeros have no scale": ("tl.where(top != 0, tl.div_rn(top, 448.0), 1.0)", "top / 448.0"),
    "columns past the last are read": ("mask=column < D, other=0.0", "mask=column < D + 1"),
    "columns past the last are written": ("near, mask=column < D)", "near)"),
    "scales past the last are written": ("scale, mask=block < COUNT)", "scale)"),
    "all rows are the first": ("x_ptr + row * D", "x_ptr"),
}


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of what is not a number
@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_caught(change: tuple[str, str]) -> None:
    def broken(text: str) -> str:  # of the kernel, or of its part
        return text.replace(*change)

    assert not holds(lambda edit: run(every(), 16, edit=edit), broken, 1e-6)
