"""Attention of one query a row in Triton: against its op in float64, for contexts of any length."""

from __future__ import annotations

import re

import pytest
from kernels.attention_cases import CLOSE, Case
from kernels.checks import Edit, Results, differ, holds

KERNEL = "triton.decode_attention"
CASES = [
    *(Case([n], 2, 2, 16, 16) for n in (1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 200)),
    # rows of unlike lengths
    Case([1, 65], 4, 2, 64, 64),
    Case([200, 16, 17], 8, 1, 16, 24),
    Case([64, 1, 130], 4, 1, 24, 16),
    # every width and group that a tile has to pad, and more heads than a tile has rows
    Case([100], 8, 1, 80, 80),
    Case([100, 40], 4, 4, 192, 128),
    Case([50], 6, 2, 8, 40),
    Case([50], 5, 1, 120, 7),
    Case([50], 2, 2, 256, 256),
    Case([70], 71, 1, 16, 16),
    # slots past the longest row
    Case([64, 3], 4, 2, 64, 64, slots=90),
]


def shared_out(text: str) -> str:
    """The text with splits of a block each: long contexts take an interpreter too much time."""
    return re.sub(r"(?m)^LEAST = \d+", "LEAST = 0", text)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_decode_attention(case: Case, dtype: str) -> None:
    assert differ(*case.run(KERNEL, dtype)) < CLOSE[dtype]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "case",
    [
        *(Case([n], 2, 2, 16, 16) for n in (32, 63, 64, 65, 128, 129, 200)),
        Case([200, 33, 1], 8, 1, 16, 24),  # some rows have fewer blocks than there are splits
        Case([192, 65], 4, 2, 80, 80, slots=230),
        Case([600], 1, 1, 16, 16),  # more splits than are combined at once
    ],
    ids=str,
)
def test_a_context_that_is_shared_out(case: Case, dtype: str) -> None:
    assert differ(*case.run(KERNEL, dtype, edit=shared_out)) < CLOSE[dtype]


@pytest.mark.parametrize("target", ["a100", "b200", "mi300x"])
def test_tiles_of_other_targets(target: str) -> None:
    case = Case([150, 90], 4, 2, 48, 32)
    assert differ(*case.run(KERNEL, "float16", target=target, edit=shared_out)) < CLOSE["float16"]


def test_queries_and_keys_may_be_parts_of_wider_rows() -> None:
    case = Case([65, 30], 4, 2, 24, 16)
    assert differ(*case.run(KERNEL, "float16", part_of=40)) < CLOSE["float16"]


BROKEN = {
    "a query sees the slot behind its own": ("to(tl.int32) + 1", "to(tl.int32) + 2"),
    "a query does not see its own slot": ("to(tl.int32) + 1", "to(tl.int32)"),
    "slots past the last are read": ("seen = tl.minimum(seen, slots)", ""),
    "a split goes on into the next": ("tl.minimum(start + share, seen)", "seen"),
    "a split ends past its row": ("tl.minimum(start + share, seen)", "start + share"),
    "keys past the end have a weight": ("(slot < end - n)[None, :]", "(slot < BLOCK_N)[None, :]"),
    "keys past the end are read": ("(slot < end)[:, None] & ", ""),
    "columns past a row's last are read": (" & (column < WIDTH)[None, :]", ""),
    "columns past a query's last are read": (
        "q_rest = tl.load(at + column[None, :], mask=(column < K)[None, :], other=0.0)",
        "q_rest = tl.load(at + column[None, :])",
    ),
    "columns past a result's last are written": ("out, mask=(column < V)[None, :])", "out)"),
    "columns past the last are written": ("out, mask=column < V)", "out)"),
    "scores are not scaled": ("score * scale - highest", "score - highest"),
    "exp2 is taken for exp": ("scale *= 1.4426950408889634", "scale *= 1.0"),
    "results are not rescaled": ("acc * shrink[:, None]", "acc"),
    "the sum of weights is not rescaled": ("total * shrink + tl.sum(weight, 1)", "total + 1"),
    "the first columns of keys are left out": ("tl.trans(k_rest), score,", "tl.trans(k_rest),"),
    "all groups have the first one's keys": ("group * k_head", "0 * k_head"),
    "all groups have the first one's values": ("group * v_head", "0 * v_head"),
    "a group's heads are the first ones": ("head = group * R + ", "head = "),
    "all rows have the first one's keys": ("batch * k_row", "0 * k_row"),
    "all rows have the first one's positions": ("batch * positions_row", "0 * positions_row"),
    "a block is passed over": ("v_ptr += BLOCK_N * v_slot", "v_ptr += 2 * BLOCK_N * v_slot"),
    "a split's weight is left out": ("top + tl.log2(total)", "top"),
    "the last split is not combined": ("used = tl.cdiv(seen, share)", "used = seen // share"),
    "splits are combined alike": ("weight = tl.exp2(norm - highest)", "weight = norm * 0 + 1"),
    "combined results are not rescaled": (
        "acc * shrink + tl.sum(weight[:",
        "acc + tl.sum(weight[:",
    ),
    "splits past the first ones are left out": ("range(0, used, BLOCK_S)", "range(0, 1, BLOCK_S)"),
}


SMALL = Case([75, 130], 4, 2, 40, 24, slots=128)


def in_steps(text: str) -> str:
    """The text with splits of two small blocks each, of which few are combined at once."""
    assert "BLOCK_S=16" in text
    assert '"BLOCK_N": 32' in text
    few = text.replace("BLOCK_S=16", "BLOCK_S=2").replace('"BLOCK_N": 32', '"BLOCK_N": 16')
    return re.sub(r"(?m)^LEAST = \d+", f"LEAST = {2 * 16 * (40 + 24) * 4}", few)


def test_what_is_to_be_broken_holds() -> None:
    assert differ(*SMALL.run(KERNEL, "float32", part_of=50, edit=in_steps)) < CLOSE["float32"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of what is not a number
@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_caught(change: tuple[str, str]) -> None:
    def broken(text: str) -> str:
        assert change[0] in text
        return in_steps(text).replace(*change)

    def run(edit: Edit | None) -> tuple[Results, Results]:
        return SMALL.run(KERNEL, "float32", part_of=50, edit=edit)

    assert not holds(run, broken, CLOSE["float32"])
