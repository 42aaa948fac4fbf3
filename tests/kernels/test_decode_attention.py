"""Attention of few queries a row in Triton: against its op in float64, for any contexts."""

from __future__ import annotations

import re

import pytest
from kernels.attention_cases import CLOSE, Case
from kernels.checks import differ

KERNEL = "triton.decode_attention"
CASES = [
    *(Case([n], 2, 2, 16, 16) for n in (1, 2, 15, 16, 17, 31, 33, 63, 64, 65, 200)),
    # rows of unlike lengths, some of which see slot 0 alone
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
    Case([70], 20, 1, 16, 16),
    # slots past the longest row
    Case([64, 3], 4, 2, 64, 64, slots=90),
    # values that are the first columns of keys, as many as a tile of keys has or fewer
    Case([65, 30], 16, 1, 40, 32, in_key=True),
    Case([65, 30], 4, 1, 32, 24, in_key=True),
    Case([65, 30], 20, 1, 24, 8, in_key=True),
    Case([33], 128, 1, 24, 16, in_key=True),
    # several new tokens of a row
    Case([2, 65], 4, 2, 16, 16, tokens=2),
    Case([17, 5, 64], 6, 2, 24, 16, tokens=5),
    Case([8, 130], 16, 1, 40, 32, tokens=8, in_key=True),
    # a window, a cap, sinks
    Case([1], 4, 2, 16, 16, window=1),
    Case([70, 33], 4, 2, 16, 16, window=1),
    Case([130, 20], 4, 2, 16, 16, window=32),
    Case([130, 20], 4, 2, 16, 16, window=33, tokens=3),
    Case([130, 20], 4, 2, 16, 16, window=500, tokens=3),
    Case([65, 3], 4, 2, 16, 16, softcap=2.0),
    Case([65, 3], 8, 2, 16, 16, sinks=True),
    Case([65, 3], 8, 2, 16, 16, sinks=True, tokens=2, window=20),
    Case([65, 30], 4, 2, 24, 16, sinks=True, tokens=3, window=7, softcap=5.0),
    # a ring, not yet full, full, and turned over
    Case([5], 2, 2, 16, 16, window=20, ring=23),
    Case([23, 7], 2, 2, 16, 16, window=20, ring=23),
    Case([70, 24], 4, 2, 16, 16, window=20, ring=23),
    Case([70, 24], 4, 2, 16, 16, window=20, ring=24, tokens=5),
    Case([70, 9], 4, 2, 16, 16, window=8, ring=40, sinks=True, tokens=2),
]
SHARED = [
    *(Case([n], 2, 2, 16, 16) for n in (32, 63, 64, 65, 128, 129, 200)),
    Case([200, 33, 1], 8, 1, 16, 24),  # some rows have fewer blocks than there are splits
    Case([192, 65], 4, 2, 80, 80, slots=230),
    Case([600], 1, 1, 16, 16),  # more splits than are combined at once
    Case([150, 33], 16, 1, 40, 32, in_key=True),
    Case([150, 33], 20, 1, 40, 32, in_key=True, tokens=2),
    Case([130, 40], 6, 2, 24, 16, tokens=5),
    Case([200, 40], 4, 2, 16, 16, window=90, sinks=True, tokens=2),
    Case([200, 90], 4, 2, 16, 16, window=90, ring=100, softcap=2.0),
]
# Many rows, which tiles of more queries serve, and a long context: an interpreter takes its time.
LONG = [
    Case([1] * 127 + [40], 1, 1, 16, 16),
    Case([40, 33] * 9, 16, 1, 24, 16, tokens=2, in_key=True),
    Case([40, 33] * 9, 16, 1, 24, 16, tokens=5, in_key=True),
    Case([4097, 1], 4, 1, 16, 16),
    Case([4097], 16, 1, 16, 8, in_key=True),
    Case([4097], 20, 2, 8, 8),
    Case([3] * 63 + [17], 16, 1, 16, 8, in_key=True),
    Case([5, 9] * 2, 128, 1, 16, 8, in_key=True),
]


def shared_out(text: str) -> str:
    """The text with splits of a block each: long contexts take an interpreter too much time."""
    text = re.sub(r"(?m)^LEAST = \d+", "LEAST = 0", text)
    return text.replace("count.to(tl.float32) * ratio", "count.to(tl.float32) * 0")


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_decode_attention(case: Case, dtype: str) -> None:
    assert differ(*case.run(KERNEL, dtype)) < CLOSE[dtype]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", SHARED, ids=str)
def test_a_context_that_is_shared_out(case: Case, dtype: str) -> None:
    assert differ(*case.run(KERNEL, dtype, edit=shared_out)) < CLOSE[dtype]


def test_a_tile_of_most_results() -> None:
    """Of 64 queries by 512 columns, whose loop has other options."""

    def full(text: str) -> str:
        return re.sub(r"(?m)^PROGRAMS = \d+", "PROGRAMS = 1", text)

    case = Case([70, 3], 64, 1, 576, 512, in_key=True)
    assert differ(*case.run(KERNEL, "float16", edit=full)) < CLOSE["float16"]


@pytest.mark.parametrize("target", ["a100", "b200", "mi300x"])
def test_tiles_of_other_targets(target: str) -> None:
    case = Case([150, 90], 4, 2, 48, 32)
    assert differ(*case.run(KERNEL, "float16", target=target, edit=shared_out)) < CLOSE["float16"]


def test_queries_and_keys_may_be_parts_of_wider_rows() -> None:
    case = Case([65, 30], 4, 2, 24, 16)
    assert differ(*case.run(KERNEL, "float16", part_of=40)) < CLOSE["float16"]


@pytest.mark.parametrize("case", LONG, ids=lambda case: str(case)[:20])
def test_many_rows_and_long_contexts(case: Case) -> None:
    assert differ(*case.run(KERNEL, "float16")) < CLOSE["float16"]
