"""What a rewrite saves and costs: the work that two graphs do not share, and which is preferred."""

from __future__ import annotations

import pytest
from archsmith.compiler.ir.cost import Cost
from archsmith.compiler.ir.parse import parse_model
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.worth import Spent, better, compared

from .text_graphs import graph


@pytest.mark.parametrize(
    ("now", "was", "decode", "prefill"),
    [
        ((2, 1, None), (1, 2, None), True, False),  # flops, bytes and seconds
        ((1, 2, None), (2, 1, None), False, False),
        ((1, 1, None), (1, 2, None), True, True),
        ((1, 1, None), (2, 1, None), True, True),
        ((1, 1, None), (1, 1, None), False, False),
        ((9, 9, 1.0), (1, 1, 2.0), True, True),
        ((1, 1, 2.0), (9, 9, 1.0), False, False),
        ((1, 1, 2.0), (9, 9, 2.0), True, True),
        ((1, 1, 2.0), (1, 1, 2.0), False, False),
    ],
)
def test_less_time_or_else_less_work(
    now: tuple[int, int, float | None],
    was: tuple[int, int, float | None],
    decode: bool,
    prefill: bool,
) -> None:
    first, second = (Spent(Cost(f, b), seconds) for f, b, seconds in (now, was))
    assert better(first, second, "decode") == decode
    assert better(first, second, "prefill") == prefill


def test_only_what_is_not_shared_counts(registry: Registry) -> None:
    scaled = graph("%y = scale(%x, factor=2.0) : X", "%z = add(%y, %x) : X", "return %z")
    doubled = graph(
        "%y = scale(%x, factor=2.0) : X",
        "%w = scale(%y, factor=3.0) : X",
        "%z = add(%y, %w) : X",
        "return %z",
    )
    one, two = (
        parse_model(text, registry.ops).blocks["b"].graph("decode") for text in (scaled, doubled)
    )
    for phase, tokens in (("decode", 1), ("prefill", 4096)):
        was, now = compared(one, two, phase, None)
        assert (was, now) == (
            Spent(Cost(), None),
            Spent(Cost(bytes=2 * 4 * 8 * tokens), None),
        )
    was, now = compared(one, two, "decode", registry.targets["h200"])
    assert (was.seconds, now.seconds) == (0.0, 2 * 4 * 8 / 4.8e12)
    assert str(now) == "1.3e-05 us"
