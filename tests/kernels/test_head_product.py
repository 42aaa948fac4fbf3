"""Rows of heads times their heads' weights in Triton: against the op in float64."""

from __future__ import annotations

import pytest
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ops.linear import Einsum
from archsmith.compiler.plugins import Registry
from kernels.checks import Edit, Results, differ, holds, interpreted

KERNEL, OP = "triton.head_product", Einsum("bthd,hkd->bthk")
CLOSE = {"float32": 2e-6, "float16": 1e-3}


def run(
    heads: int, out: int, inner: int, sizes: Sizes, dtype: str, edit: Edit | None = None
) -> tuple[Results, Results]:
    """Operands are parts of wider heads and weights."""
    return interpreted(
        KERNEL,
        OP,
        [f"[B, T, {heads}, {inner}]", f"[{heads}, {out}, {inner}]"],
        sizes,
        dtype=dtype,
        part_of={"x0": (heads + 1, inner + 3), "x1": (out + 5, inner)},
        phases=("decode",),
        edit=edit,
    )


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("heads", "out", "inner", "batch", "tokens"),
    [
        (1, 1, 1, 1, 1),
        (1, 16, 32, 3, 1),
        (4, 24, 40, 2, 3),
        (16, 20, 48, 1, 1),
        (2, 128, 512, 1, 1),  # DeepSeek's widths
        (3, 70, 70, 5, 1),
        *((2, 24, 20, rows, 1) for rows in (16, 17, 33, 128)),
    ],
)
def test_head_product(
    heads: int, out: int, inner: int, batch: int, tokens: int, dtype: str
) -> None:
    assert differ(*run(heads, out, inner, Sizes(batch, tokens, 9), dtype)) < CLOSE[dtype]


BROKEN = {
    "all heads have one weight": ("head.to(tl.int64) * weight_head", "0"),
    "rows are written past the last": ("row < rows,", "row < rows + 1,"),
    "heads are taken to be dense": ("head * x_head", "head * D"),
    "columns are taken to lie in a row": ("column * weight_out", "column * (IN + 1)"),
    "columns are written past the last": ("mask=live & (column < OUT))", "mask=live)"),
    "the last columns are left out": ("(K + BLOCK_N - 1) // BLOCK_N", "K // BLOCK_N"),
    "sums end early": ("range(0, IN, BLOCK_K)", "range(0, IN - BLOCK_K, BLOCK_K)"),
}


def broken(edit: Edit | None) -> tuple[Results, Results]:
    return run(3, 70, 70, Sizes(5, 1, 9), "float32", edit)


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_caught(change: tuple[str, str]) -> None:
    assert not holds(broken, lambda text: text.replace(*change), CLOSE["float32"])


def test_what_it_leaves_to_pytorch(registry: Registry) -> None:
    kernel, chip = registry.kernels[KERNEL](), registry.targets["h200"]
    for equation in ("btd,fd->btf", "bthk,hkd->bthd", "bthk,dhk->btd"):
        assert kernel.refuses(Einsum(equation), (), chip) is not None
