"""What a test of decode attention must notice: its texts, broken on purpose."""

from __future__ import annotations

import re
from functools import partial

import pytest
from kernels.attention_cases import CLOSE, Case
from kernels.checks import Edit, Results, differ, holds

KERNEL = "triton.decode_attention"
COMMON = {
    "a query sees the slot behind its own": ("<= position[:, None]", "<= position[:, None] + 1"),
    "a query does not see its own slot": ("<= position[:, None]", "< position[:, None]"),
    "the last slot is not read": ("tl.max(position) + 1", "tl.max(position)"),
    "a split goes on into the next": ("tl.minimum(start + each, seen)", "seen"),
    "a split ends past its row": ("tl.minimum(start + each, seen)", "start + each"),
    "keys past the end are read": ("inside = (slot < end)[:, None]", "inside = slot[:, None] >= 0"),
    "columns past a row's last are read": ("inside &= (column < WIDTH)[None, :]", "pass"),
    "columns past a query's last are read": (
        "q_rest = tl.load(at + column[None, :], mask=(column < K)[None, :], other=0.0)",
        "q_rest = tl.load(at + column[None, :])",
    ),
    "columns past a result's last are written": (
        "(row < count)[:, None] & (column < V)[None, :]\n    if",
        "(row < count)[:, None]\n    if",
    ),
    "rows past a result's last are written": (
        "(row < count)[:, None] & (column < V)[None, :]\n    if",
        "(column < V)[None, :]\n    if",
    ),
    "columns past a part's last are written": (
        "mask=(row < count)[:, None] & (column < V)[None, :])",
        "mask=(row < count)[:, None])",
    ),
    "scores are not scaled": ("score * factor - highest", "score - highest"),
    "exp2 is taken for exp": ("LOG2E: tl.constexpr = 1.4426950408889634", "LOG2E = 1.0"),
    "results are not rescaled": ("acc * shrink[:, None], input", "acc, input"),
    "the sum of weights is not rescaled": ("total * shrink + tl.sum(weight, 1)", "total + 1"),
    "the last columns of keys are left out": (
        "score = tl.dot(q, tl.trans(k), score,",
        "score = tl.dot(q, tl.trans(k),",
    ),
    "all groups have the first one's keys": ("group * k_head", "0 * k_head"),
    "a group's heads are the first ones": ("group * R + row % R", "row % R"),
    "all tokens have the first one's position": ("token * positions_token", "0 * token"),
    "all tokens have the first one's query": ("token * q_token", "0 * token"),
    "a block is passed over": ("k_ptr += BLOCK_N * k_slot", "k_ptr += 2 * BLOCK_N * k_slot"),
    "a split's weight is left out": ("top + tl.log2(total), split", "top, split"),
    "no split combines": ("== used - 1", "== used"),
    "counters stay as they are": ("arrived_ptr + tile, 0)", "arrived_ptr + tile, used)"),
    "the last split is not counted": (
        "used = tl.cdiv(seen - first, each)",
        "used = (seen - first) // each",
    ),
    "splits are combined alike": ("weight = tl.exp2(norm - highest)", "weight = norm * 0 + 1"),
    "combined results are not rescaled": (
        "acc = acc * shrink[:, None] + weight[:",
        "acc = acc + weight[:",
    ),
    "tiles share a counter": ("arrived_ptr + tile", "arrived_ptr"),
    "tiles share their parts": ("part_ptr += tile * splits", "part_ptr += 0 * splits"),
    "tiles share their norms": ("norm_ptr += tile * splits", "norm_ptr += 0 * splits"),
    "columns behind the first are not combined": (
        "used, 0, VALUE, above",
        "used, 0, COLUMNS, above",
    ),
    "results of a token stand behind the first's": ("// R * (GROUPS * R)", "// R * R"),
}
ROWS = {
    "slots past the last are read": ("tl.minimum(position, slots - 1)", "position"),
    "all rows have the first one's keys": ("batch * k_row", "0 * k_row"),
    "all rows have the first one's positions": ("batch * positions_row", "0 * positions_row"),
}
OPTIONS = {
    "a window is one too long": ("position[:, None] - WINDOW", "position[:, None] - WINDOW - 1"),
    "a window is one too short": ("position[:, None] - WINDOW", "position[:, None] - WINDOW + 1"),
    "a window's first slots are not read": ("tl.min(position) - (WINDOW - 1)", "tl.max(position)"),
    "sinks are of all splits": ("split == 0", "split >= 0"),
    "sinks are of no split": ("split == 0", "split < 0"),
    "sinks are of the first heads": ("sinks_ptr + head", "sinks_ptr + row % R"),
    "sinks have no weight": ("total += tl.where(split == 0, 1.0, 0.0)", "total += 0.0"),
    "a cap is another": ("factor = CAP * LOG2E", "factor = 2 * CAP * LOG2E"),
    "a cap's slope is another": ("scale / CAP * 2 * LOG2E", "scale / CAP * LOG2E"),
}
IN_KEY = {
    "the values of some columns are left out": (
        "v = k if IN_KEY else",
        "v = k - rows(k_ptr, slot, 1, k_slot, 0, KEY, K) if IN_KEY else",
    ),
    "values are not the keys'": ("v = k if IN_KEY else", "v = k * 0 if IN_KEY else"),
}
RING = {
    "a ring's slots are positions": (
        "held = tl.minimum(held, 2**31 - 1).to(tl.int32)",
        "held = n + slot",
    ),
    "what was never written is seen": ("held = tl.minimum(held, 2**31 - 1)", "held = held"),
    "a ring ends with its row's position": ("first, seen = 0, slots", "pass"),
    "all rows hold what the first does": ("batch * held_row", "0 * held_row"),
}

APART = {
    "the launch that combines is told of one split": (
        "arrived_ptr + tile, used)",
        "arrived_ptr + tile, 1)",
    ),
    "it combines the first columns only": ("start = tl.program_id(0) * COLUMNS", "start = 0"),
    "it takes the first tile's splits": (
        "tile = batch * tl.num_programs(1) + tl.program_id(1)\n    used",
        "tile = batch * 0\n    used",
    ),
}

SMALL = Case([50], 12, 2, 40, 24, slots=64, tokens=3)  # of two tiles a group
SETS = {
    "common": (COMMON, SMALL),
    # Of two splits, which run one after the other here, the second would make it good again.
    "three": (
        {"the last split is not awaited": ("== used - 1", "== used - 2")},
        Case([100], 2, 1, 40, 24),
    ),
    "rows": (ROWS, Case([18, 40], 4, 2, 40, 24, slots=33)),
    "options": (OPTIONS, Case([20, 66], 4, 2, 40, 24, window=37, sinks=True, softcap=1.5)),
    "in-key": (IN_KEY, Case([18, 34], 6, 1, 40, 32, in_key=True, tokens=2)),
    "apart": (APART, Case([66], 12, 2, 40, 24, tokens=3)),
    "ring": (RING, Case([15, 66], 4, 2, 16, 16, window=20, ring=33)),
}
TARGETS = {kind: "mi300x" if kind == "apart" else "h200" for kind in SETS}
EVERY = [
    pytest.param(kind, change, id=f"{kind}: {said}")
    for kind, (changes, _) in SETS.items()
    for said, change in changes.items()
]


def in_steps(text: str) -> str:
    """The text with splits of few small blocks, which are combined a few columns at a time."""
    text = text.replace('"BLOCK_N": 32', '"BLOCK_N": 16').replace("4096", "256")
    text = text.replace("count.to(tl.float32) * ratio", "count.to(tl.float32) * 0")
    return re.sub(r"(?m)^LEAST = \d+", f"LEAST = {2 * 16 * (40 + 24) * 4}", text)


def run(kind: str, edit: Edit | None) -> tuple[Results, Results]:
    _, case = SETS[kind]
    return case.run(KERNEL, "float32", part_of=50, edit=edit, target=TARGETS[kind])


@pytest.mark.parametrize("kind", SETS)
def test_what_is_to_be_broken_holds(kind: str) -> None:
    assert differ(*run(kind, in_steps)) < CLOSE["float32"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of what is not a number
@pytest.mark.parametrize(("kind", "change"), EVERY)
def test_what_is_broken_is_caught(kind: str, change: tuple[str, str]) -> None:
    met = []

    def broken(text: str) -> str:
        met.append(change[0] in text)
        return in_steps(text).replace(*change)

    assert not holds(partial(run, kind), broken, CLOSE["float32"])
    assert any(met), "the text is another by now"
