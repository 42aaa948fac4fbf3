"""A gated activation in Triton: against its op in float64, on rows and parts of rows."""

from __future__ import annotations

import pytest
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ops.elementwise import ACTIVATIONS, GatedActivation
from kernels.checks import Edit, Results, Run, differ, holds, interpreted

# Of a rounding to the stored dtype, and of exponentials in float32.
CLOSE = {"float32": 2e-6, "float16": 1e-3}
WIDTHS = (
    *(1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 127, 128, 129),
    *(256, 1000, 1024, 1025, 1408, 2050),
)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("width", WIDTHS)
def test_gated_activation(width: int, dtype: str) -> None:
    row = f"[B, T, {width}]"
    for sizes in (Sizes(1, 1, 1), Sizes(2, 7, 7)):
        found = interpreted(
            "triton.gated_activation", GatedActivation("silu"), [row, row], sizes, dtype=dtype
        )
        assert differ(*found) < CLOSE[dtype]


@pytest.mark.parametrize("function", ACTIVATIONS)
def test_every_activation(function: str) -> None:
    run = _run(function)
    assert differ(*run(None)) < CLOSE["float32"]


BROKEN = {
    "up is left out": (" * up\n    tl.store", "\n    tl.store"),
    "the gate's rows are taken to be dense": ("row * gate_stride", "row * N"),
    "up's rows are taken to be dense": ("row * up_stride", "row * N"),
    "columns past the last are written": (", mask=mask)\n\n\n", ")\n\n\n"),
    "the last columns are left out": ("triton.cdiv(width, ", "int(width / "),
    "results are spaced like tiles": ("y_ptr + row * N", "y_ptr + row * BLOCK"),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_caught(change: tuple[str, str]) -> None:
    run = _run("silu")
    assert holds(run, None, CLOSE["float32"])
    assert not holds(run, lambda text: text.replace(*change), CLOSE["float32"])


def _run(function: str) -> Run:
    def run(edit: Edit | None) -> tuple[Results, Results]:
        return interpreted(
            "triton.gated_activation",
            GatedActivation(function),
            ["[B, T, 1030]", "[B, T, 1030]"],
            Sizes(2, 5, 5),
            dtype="float32",
            part_of={"gate": 1100, "up": 1200},
            edit=edit,
        )

    return run
