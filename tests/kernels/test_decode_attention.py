"""Attention of one query a row in Triton: against its op in float64, for contexts of any length."""

from __future__ import annotations

import re

import pytest
from kernels.attention_cases import CLOSE, Case
from kernels.checks import differ

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
    """The text, with splits of a block each: as of longer contexts than an interpreter has time for."""
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
