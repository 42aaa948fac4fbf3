"""Attention of many queries in Triton: against its op in float64, at the edges of its tiles."""

from __future__ import annotations

import pytest
from kernels.attention_cases import CLOSE, Case
from kernels.checks import differ

KERNEL = "triton.prefill_attention"
CASES = [
    # a context of its own, whole
    *(Case([n], 2, 2, 16, 16, tokens=n) for n in (2, 15, 16, 17, 31, 33, 63, 64, 65, 130)),
    # the end of a longer one
    *(Case([n], 4, 1, 24, 16, tokens=t) for n, t in ((16, 3), (17, 16), (65, 2), (200, 9))),
    # rows of unlike lengths
    Case([5, 65, 33], 4, 2, 64, 64, tokens=5),
    Case([200, 17], 8, 1, 16, 24, tokens=17),
    Case([130, 127], 3, 1, 32, 32, tokens=70),
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


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", CASES, ids=str)
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
