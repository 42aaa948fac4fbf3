"""Grouped experts in Triton with a broken text: each break must show."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from kernels.checks import Edit, Results, holds
from kernels.expert_cases import CLOSE, DESCRIBED, LAST_ARRIVES, changed, run, single

BROKEN = {
    "there are too few tiles": ("else len(table)", "else len(table) // 2"),
    "x has a row a choice": ("row // K if gated else row", "row"),
    "up is gate": ("up, first + OUT", "up, first"),
    "an expert is half as large": ("((2 if gated else 1) * OUT)", "OUT"),
    "x is read past its row": ("mask=live & (k < IN)", "mask=live"),
    "columns past the last are written": ("mask=live & (col < OUT)", "mask=live"),
    "rows past the last are written": ("mask=live & (col < OUT)", "mask=col < OUT"),
    "a step reads what the last one did": ("k = start +", "k = start // 2 +"),
    "columns and tiles are confused": ("tiles, columns, GROUP_M)", "columns, tiles, GROUP_M)"),
    "the last columns are left out": ("triton.cdiv(F, gate_n)", "(F // gate_n)"),
    "gate is not activated": ("y * tl.sigmoid(y) * up", "y * up"),
    "up is left out": ("y * tl.sigmoid(y) * up", "y * tl.sigmoid(y)"),
    "the weight is left out": ("y += share * tl.load", "y += tl.load"),
    "the weight is the first choice's": ("share_ptr + choice + slot", "share_ptr + choice"),
    "a choice is left out": ("tl.static_range(K)", "tl.static_range(1, K)"),
    "results are spaced like tiles": (
        "y_ptr + token.to(tl.int64) * D",
        "y_ptr + token.to(tl.int64) * K",
    ),
}
BROKEN_OF_FEW = {
    "tokens are as far apart as slots": (
        "row[:, None] * K + slot",
        "row[:, None] * SLOTS + slot",
    ),
    "a token has one choice": ("(slot < K) &", "(slot < 1) &"),
    "only the first tokens are there": ("& (choice < choices)", "& (choice < K)"),
    "any expert's choices are its own": (" == expert)\n", " >= 0)\n"),
    "only the first choice is run": ("first == tile if", "tile == 0 if"),
    "an expert is a tile": ("if BY_CHOICE else tile\n", "if 0 else tile\n"),
    **LAST_ARRIVES,
    "tokens past the last are summed": ("there = (token < tokens) &", "there = (token >= 0) &"),
}
BROKEN_OF_WIDE = DESCRIBED
CALLS: dict[str, Callable[[Edit | None], tuple[Results, Results]]] = {
    "many": lambda edit: run(40, 4, 2, 70, 40, chosen=(1, 2, 3), edit=edit),
    "few": lambda edit: run(5, 20, 3, 40, 36, edit=edit),
    "wide": lambda edit: run(20, 3, 2, 136, 72, dtype="float16", target=single("h200"), edit=edit),
}
CHANGES = {
    f"{call}: {name}": (call, change)
    for call, changes in (("many", BROKEN), ("few", BROKEN_OF_FEW), ("wide", BROKEN_OF_WIDE))
    for name, change in changes.items()
}


@pytest.mark.parametrize(("call", "change"), CHANGES.values(), ids=CHANGES)
def test_what_is_broken_is_caught(call: str, change: tuple[str, str]) -> None:
    assert not holds(
        CALLS[call], changed(change), CLOSE["float16" if call == "wide" else "float32"]
    )


@pytest.mark.parametrize("call", CALLS)
def test_what_is_whole_holds(call: str) -> None:
    """The runs that are broken above, as they are."""
    assert holds(CALLS[call], None, CLOSE["float16" if call == "wide" else "float32"])
