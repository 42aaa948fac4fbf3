"""Experts in 8 bits in Triton with a broken text: each break must show."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kernels.checks import Edit, Results, holds
from kernels.expert_cases import DESCRIBED, LAST_ARRIVES, changed, single
from kernels.quantized_cases import CLOSE, run

BROKEN = {
    "a scale is left out": ("part * scale", "part"),
    "scales are the first block's": ("tl.load(scale_row + block)", "tl.load(scale_row)"),
    "up has the scales of gate": ("scale_row + tall * blocks + block", "scale_row + block"),
    "columns have the first block's scale": ("column * BLOCK_N // BLOCK * blocks", "0"),
    "experts share their scales": ("scale_ptr + expert * (", "scale_ptr + 0 * ("),
    "an expert has half as many": ("((2 if gated else 1) * tall", "(tall"),
    "a sign is lost": ("& -0x78100000", "& 0x07F00000"),
    "all are twice as large": ("2.0**120", "2.0**121"),
    "a bit of each is lost": ("& -0x78100000", "& -0x78200000"),
    "up is gate": ("first + OUT", "first"),
    "a step reads what an earlier one did": ("k = start +", "k = start // 2 +"),
    "x is read past its row": ("mask=live & (k < IN)", "mask=live"),
    "columns past the last are written": ("mask=live & (col < OUT)", "mask=live"),
    "rows past the last are written": ("mask=live & (col < OUT)", "mask=col < OUT"),
    "the last columns are left out": ("triton.cdiv(F, gate_n)", "(F // gate_n)"),
    "gate is not activated": ("y * tl.sigmoid(y) * up", "y * up"),
    **LAST_ARRIVES,
}
BROKEN_OF_MANY = {
    "there are too few tiles": ("else len(table)", "else len(table) // 2"),
    "nothing is summed": ("if arrived is None:", "if arrived is not None:"),
    "columns and tiles are confused": ("tiles, columns, GROUP_M)", "columns, tiles, GROUP_M)"),
}
BROKEN_OF_ACTIVATIONS = {
    "x has no scale": ("scale *= x_scale", "scale *= 1.0"),
    "weights have none": ("scale *= x_scale", "scale = x_scale"),
    "x has its first block's": ("row * blocks + block, mask=live", "row * blocks, mask=live"),
    "x has its first token's": ("x_scale_ptr + x_row * blocks", "x_scale_ptr + x_row * 0"),
    "every scale is one": ("tl.where(top > 0", "tl.where(top < 0"),
    "a scale is of numbers, not of magnitudes": ("tl.max(tl.abs(x), 1)", "tl.max(x, 1)"),
    "hidden rows keep one scale": ("row * columns + column, scale", "row * columns, scale"),
    "hidden rows are not in its units": ("y = tl.div_rn(y,", "y = y + 0 * tl.div_rn(y,"),
    "some blocks of x are left out": ("triton.cdiv(blocks, some)", "(blocks // some)"),
    "scales are spaced like rows": ("row * blocks + block, scale", "row * IN + block, scale"),
}
BROKEN_OF_TURNS = {
    "gate is summed in both turns": ("if turn == 0:", "if turn >= 0:"),
    "up in none": ("turn == TURNS - 1", "turn == TURNS"),
    "there is one": ("tl.static_range(TURNS if gated else 1)", "tl.static_range(1)"),
}
BROKEN_OF_WIDE = {
    **DESCRIBED,
    "what follows a row's last column has a part in its scale": (
        "tl.where(col < OUT, y, 0.0)",
        "y",
    ),
}
Call = Callable[[Edit | None], tuple[Results, Results]]
CALLS: dict[str, tuple[Call, dict[str, tuple[str, str]]]] = {
    # Of a target without float8, which is made wide by arithmetic; one expert has no tokens.
    "few": (lambda e: run(17, 3, 1, 40, 40, chosen=(0, 2), target="a100", edit=e), BROKEN),
    "many": (lambda e: run(40, 4, 2, 70, 40, chosen=(1, 2, 3), edit=e), BROKEN_OF_MANY),
    "near": (lambda e: run(17, 2, 1, 40, 40, near=True, edit=e), BROKEN_OF_ACTIVATIONS),
    "turns": (lambda e: run(70, 1, 1, 40, 40, near=True, edit=e), BROKEN_OF_TURNS),
    "wide": (
        lambda e: run(20, 3, 2, 144, 80, block=64, near=True, target=single("h200"), edit=e),
        BROKEN_OF_WIDE,
    ),
}
CHANGES = {
    f"{name}: {what}": (call, change)
    for name, (call, changes) in CALLS.items()
    for what, change in changes.items()
}


@pytest.mark.parametrize(("call", "change"), CHANGES.values(), ids=CHANGES)
def test_what_is_broken_is_caught(call: Call, change: tuple[str, str]) -> None:
    assert not holds(call, changed(change), CLOSE["float16"])


@pytest.mark.parametrize("name", CALLS)
def test_what_is_whole_holds(name: str) -> None:
    """The runs that are broken above, as they are."""
    assert holds(CALLS[name][0], None, CLOSE["float16"])
