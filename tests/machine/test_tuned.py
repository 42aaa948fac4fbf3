"""Tables of measured tiles: written and read, and every mistake in its place."""

from __future__ import annotations

import re

import pytest
from archsmith.compiler.machine.tuned import Table, merged
from archsmith.compiler.spec.diagnostics import SpecError
from archsmith.compiler.spec.explain import explain
from archsmith.compiler.spec.source import parse
from schedule.tables import table

NORM = ("triton.rms_norm", "bfloat16", (512,))
FULL = table(
    "h200",
    (NORM, None, {"ROWS": 4, "num_warps": 2}),
    (NORM, 64, {"ROWS": 8, "num_warps": 2}),
    (("a.kernel", "float16", (1, 2)), 16, {"BLOCK": 32}),
)


def test_what_is_written_is_read() -> None:
    text = FULL.text()
    assert Table.of(parse(text, "t.yaml")) == FULL
    assert [entry.kernel for entry in FULL.kernels] == ["a.kernel", "triton.rms_norm"]
    assert [tile.rows for tile in FULL.kernels[1].tiles] == [64, None]
    assert "  - rows: 64\n    options: {ROWS: 8, num_warps: 2}\n    calls:\n" in text


def test_a_tile_takes_the_place_of_one_for_as_many_rows() -> None:
    again = table("h200", (NORM, 64, {"ROWS": 1}), (NORM, 64, {"ROWS": 2}))
    assert again.tiles == {NORM: {64: {"ROWS": 2}}}


def test_of_two_tables_the_later_is_heard() -> None:
    other = table("h200", (NORM, 64, {"ROWS": 1}))
    ours = merged([FULL, other, table("a100", (NORM, None, {}))], "h200")
    assert ours[NORM] == {64: {"ROWS": 1}, None: {"ROWS": 4, "num_warps": 2}}
    assert merged([FULL], "a100") == {}


@pytest.mark.parametrize(
    ("old", "new", "said", "line"),
    [
        ("rows: 64", "rows: many", "kernels[1].tiles[0].rows should be a valid integer", 23),
        ("us: [1.5]", "ns: [1.5]", "kernels[0].tiles[0].us Field required", 13),
        ("card: a card", "car: a card", "car are not permitted", 3),
        ("driver: 580.65.06", "driver: 580", "driver should be a valid string", 4),
        ("tuned: 1", "tuned: 2", "tuned should be 1", 1),
    ],
)
def test_a_mistake_is_shown_in_its_place(old: str, new: str, said: str, line: int) -> None:
    text = FULL.text()
    assert old in text
    with pytest.raises(SpecError) as caught:
        Table.of(parse(text.replace(old, new, 1), "t.yaml"))
    assert f"error[E0401]: {said}" in str(caught.value)
    assert f"--> t.yaml:{line}:" in str(caught.value)
    assert "`archsmith tune` writes tables" in str(caught.value)


def test_the_page_shows_a_table_with_one_mistake() -> None:
    (shown,) = re.findall(r"```yaml\n(.*?)```", explain("E0401"), flags=re.S)
    with pytest.raises(SpecError) as caught:
        Table.of(parse(shown, "t.yaml"))
    assert [found.code for found in caught.value.diagnostics] == ["E0401"]
    assert Table.of(parse(shown.replace("rows: many", "rows: null"), "t.yaml")).target == "h200"
