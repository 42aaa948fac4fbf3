"""Attention of many queries in Triton: against its op in float64, at the edges of its tiles."""

from __future__ import annotations

from itertools import cycle

import pytest
from kernels.attention_cases import CLOSE, Case
from kernels.checks import Edit, Results, differ, holds

KERNEL = "triton.prefill_attention"
CASES = [
    # a context of its own, whole
    *(Case([n], 2, 1, 16, 16, tokens=n) for n in (2, 15, 16, 17, 31, 33, 63, 64, 65)),
    # the end of a longer one
    *(Case([n], 4, 1, 24, 16, tokens=t) for n, t in ((16, 3), (17, 16), (65, 2), (200, 9))),
    # rows of unlike lengths
    Case([5, 65, 33], 4, 2, 64, 64, tokens=5),
    Case([200, 17], 8, 1, 16, 24, tokens=5),
    Case([130, 127], 3, 1, 32, 32, tokens=20),
    # every width and group that a tile has to pad
    Case([40], 8, 1, 80, 80, tokens=20),
    Case([40], 4, 4, 192, 128, tokens=20),
    Case([20], 6, 2, 8, 40, tokens=20),
    Case([33], 5, 1, 120, 7, tokens=33),
    Case([33], 2, 2, 256, 256, tokens=9),
    # one query, and slots past the longest row
    Case([1], 2, 1, 16, 16),
    Case([64, 3], 4, 2, 64, 64, slots=90),
]
OPTIONS = [
    # a window of one slot, of less and more than a block, of the context, and of more than it
    *(Case([n], 1, 1, 16, 16, tokens=n, window=w) for n, w in ((1, 1), (33, 1), (34, 2), (33, 15))),
    *(Case([n], 2, 1, 16, 16, tokens=n, window=16) for n in (15, 16, 17, 31, 33, 63, 48, 65)),
    *(Case([n], 2, 1, 24, 16, tokens=n, window=w) for n, w in ((35, 17), (70, 32), (49, 33))),
    *(Case([n], 2, 1, 24, 16, tokens=n, window=w) for n, w in ((70, 69), (35, 35), (70, 71))),
    Case([35], 2, 1, 16, 16, tokens=35, window=500),
    # the end of a longer context, and rows of unlike lengths
    *(Case([100], 4, 1, 16, 16, tokens=t, window=w) for t, w in ((2, 1), (9, 64), (20, 20))),
    Case([90, 17, 40], 3, 1, 24, 32, tokens=9, window=30),
    Case([60, 20], 4, 2, 192, 128, tokens=20, window=30),
    # caps and sinks, alone and with all else
    *(Case([n], 2, 1, 16, 16, tokens=n, softcap=1.5) for n in (1, 33)),
    *(Case([n], 4, 2, 16, 16, tokens=n, sinks=True) for n in (1, 20)),
    Case([65, 30], 7, 1, 24, 16, tokens=30, softcap=2.0, sinks=True),
    Case([40], 16, 2, 64, 64, tokens=40, window=12, sinks=True),
    Case([40], 4, 2, 256, 256, tokens=9, window=32, softcap=5.0),
    Case([80, 50], 5, 1, 40, 24, tokens=21, window=33, softcap=2.0, sinks=True, slots=90),
]


@pytest.mark.parametrize(("case", "dtype"), list(zip(OPTIONS, cycle(CLOSE), strict=False)), ids=str)
def test_windows_caps_and_sinks(case: Case, dtype: str) -> None:
    assert differ(*case.run(KERNEL, dtype)) < CLOSE[dtype]


@pytest.mark.parametrize(("case", "dtype"), list(zip(CASES, cycle(CLOSE), strict=False)), ids=str)
def test_prefill_attention(case: Case, dtype: str) -> None:
    assert differ(*case.run(KERNEL, dtype)) < CLOSE[dtype]


@pytest.mark.parametrize("target", ["a100", "b200", "mi300x"])
@pytest.mark.parametrize("case", [Case([150, 90], 4, 2, 48, 32, tokens=90)], ids=str)
def test_tiles_of_other_targets(case: Case, target: str) -> None:
    assert differ(*case.run(KERNEL, "float16", target=target)) < CLOSE["float16"]


def test_queries_and_keys_may_be_parts_of_wider_rows() -> None:
    assert (
        differ(*Case([65, 30], 4, 2, 24, 16, tokens=30).run(KERNEL, "float16", part_of=40)) < 2e-3
    )


def test_padding_behind_a_row_is_no_slot() -> None:
    """A short row's positions go on past the slots that there are; its own tokens are exact."""
    case = Case([12, 9], 2, 1, 16, 16, tokens=9, slots=10)
    assert differ(*case.run(KERNEL, "float32")) < CLOSE["float32"]


BROKEN = {
    "a query sees the slot behind its own": ("return at <= position", "return at <= position + 1"),
    "a query does not see its own slot": ("at <= position", "at < position"),
    "a block that some do not see has no mask": (
        "(tl.min(position) + 1)",
        "(tl.min(position) + 17)",
    ),
    "the last slot is left out": ("0, tl.max(position)", "0, tl.max(position) - 1"),
    "slots that no query sees are read": ("there = at <= newest", "there = at <= newest + 20"),
    "slots past the last are read": ("tl.minimum(position, slots - 1)", "position"),
    "keys past the end are read": ("mask=there[:, None] & (column", "mask=(column"),
    "columns past a row's last are read": (
        "mask=there[:, None] & (column < WIDTH)[None, :], other",
        "mask=there[:, None], other",
    ),
    "columns past a query's last are read": (
        "tl.load(at, mask=(column < WIDTH)[None, :], other=0.0)",
        "tl.load(at)",
    ),
    "columns past a result's last are written": (
        "mask = there[:, None] & (column < WIDTH)[None, :]",
        "mask = there[:, None]",
    ),
    "scores are not scaled": ("score * factor - highest", "score - highest"),
    "exp2 is taken for exp": ("scale *= 1.4426950408889634", "scale *= 1.0"),
    "results are not rescaled": ("acc * shrink[:, None]", "acc"),
    "the sum of weights is not rescaled": ("total * shrink", "total"),
    "the first columns of keys are left out": ("tl.trans(k_rest), score,", "tl.trans(k_rest),"),
    "all groups have the first one's keys": ("group * k_head", "0 * k_head"),
    "all groups have the first one's values": ("group * v_head", "0 * v_head"),
    "a group's heads are the first ones": ("group * R + row % R", "row % R"),
    "all rows have the first one's keys": ("batch * k_row", "0 * k_row"),
    "all rows have the first one's positions": ("batch * positions_row", "0 * positions_row"),
    "keys are taken to be dense": ("k_ptr + slot * k_slot", "k_ptr + slot * K * 2"),
    "a block is passed over": ("k_ptr += BLOCK_N * k_slot", "k_ptr += 2 * BLOCK_N * k_slot"),
    "the first tiles are left out": ("tl.num_programs(1) - 1 - tl.program_id(1)", "1"),
    "totals are not what weights are shares of": ("top + tl.log2(total)", "top"),
}


SMALL = Case([40, 21], 4, 2, 40, 24, tokens=9, slots=39)


def test_what_is_to_be_broken_holds() -> None:
    assert differ(*SMALL.run(KERNEL, "float32", part_of=50)) < CLOSE["float32"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of what is not a number
@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_caught(change: tuple[str, str]) -> None:
    def run(edit: Edit | None) -> tuple[Results, Results]:
        return SMALL.run(KERNEL, "float32", part_of=50, edit=edit)

    assert not holds(run, lambda text: text.replace(*change), CLOSE["float32"])
