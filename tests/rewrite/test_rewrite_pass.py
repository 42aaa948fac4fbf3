"""A pass of pattern, check and rewrite: what it may replace, how often, and what it is told."""

from __future__ import annotations

from typing import Any

import pytest
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.pattern import RewritePass
from archsmith.compiler.rewrite.pipeline import PassFailed

from .text_graphs import Fuse, graph, reasons, runner


@pytest.fixture
def run(registry: Registry) -> Any:
    return runner(registry)


class Chain(Fuse):
    def pattern(self, op: Any, x: Any) -> Any:
        return op.softcap(op.scale(x))


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["%z = add(%y, %h) : X", "return %z"], "b/%y: %h is also read by %z"),
        (["return %y, %h"], "b/%y: %h is also returned by the block"),
        (
            ["%z = softcap(%h, cap=2.0) : X", "%o = add(%y, %z) : X", "return %o"],
            "b/%y: %h is also read by %z",
        ),
    ],
)
def test_what_others_read_is_left_alone(run: Any, lines: list[str], reason: str) -> None:
    text = graph("%h = scale(%x, factor=3.0) : X", "%y = softcap(%h, cap=1.0) : X", *lines)
    _, outcome = run(Chain(), text)
    assert outcome.applications == 0
    assert reason in reasons(outcome)


class Kept(Fuse):
    """A pattern that lets its inner value be read."""

    def pattern(self, op: Any, x: Any) -> Any:
        h = op.scale(x)
        return h, op.softcap(h)

    def rewrite(self, op: Any, *, x: Any) -> Any:
        h = op.clamp(x, low=0.0)
        return h, op.clamp(h, high=1.0)


def test_what_the_pattern_returns_may_be_read(run: Any) -> None:
    text = graph(
        "%h = scale(%x, factor=3.0) : X",
        "%y = softcap(%h, cap=1.0) : X",
        "%z = add(%y, %h) : X",
        "return %z, %h",
    )
    lines, outcome = run(Kept(), text)
    assert lines == [
        "%h = clamp(%x, low=0.0)",
        "%y = clamp(%h, high=1.0)",
        "%z = add(%y, %h)",
        "return %z, %h",
    ]
    assert outcome.applications == 1


class Halves(Fuse):
    """A pattern of an op with two results, both of which the rest may read."""

    def pattern(self, op: Any, x: Any) -> Any:
        both = op.split(op.scale(x), bind="cut")
        return both[0], both[1]

    def rewrite(self, op: Any, *, x: Any, cut: Any) -> Any:
        return op.split(x, sizes=cut.sizes)


SPLIT = "%a, %b = split(%h, sizes=(3~1, 5~2)) : float32[B, T, 3~1], float32[B, T, 5~2]"


def test_a_root_with_several_results(run: Any) -> None:
    text = graph(
        "%h = scale(%x, factor=3.0) : X", SPLIT, "%y = concat(%b, %a) : X", "return %y, %a"
    )
    lines, outcome = run(Halves(), text)
    assert lines == [
        "%a, %b = split(%x, sizes=(3~1, 5~2))",
        "%y = concat(%b, %a)",
        "return %y, %a",
    ]
    assert (outcome.applications, reasons(outcome)) == (1, [])


class Apart(Fuse):
    """A pattern of two values of which neither leads to the other."""

    def pattern(self, op: Any, x: Any) -> Any:
        return op.softcap(x), op.scale(x)

    def rewrite(self, op: Any, *, x: Any) -> Any:
        return x, x


def test_a_root_that_is_not_reached(run: Any) -> None:
    text = graph("%h = scale(%x, factor=3.0) : X", "return %h")
    _, outcome = run(Apart(), text)
    assert reasons(outcome) == ["b/%h: the pattern does not reach its softcap from its scale"]


class Double(Fuse):
    def pattern(self, op: Any, x: Any) -> Any:
        return op.add(x, x)


class Picky(Fuse):
    def pattern(self, op: Any, x: Any) -> Any:
        return op.scale(x, bind="by")

    def check(self, *, rewriter: Any, x: Any, by: Any) -> str | None:
        if by.factor > 1 and x in rewriter.graph:
            return f"{by.factor} is more than one"
        return None


def test_check_is_given_everything_and_its_reason_is_kept(run: Any) -> None:
    lines, outcome = run(
        Picky(),
        graph("%h = scale(%x, factor=3.0) : X", "%y = scale(%h, factor=0.5) : X", "return %y"),
    )
    assert lines == ["%h = scale(%x, factor=3.0)", "%y = scale(%h, factor=2.0)", "return %y"]
    assert (outcome.applications, reasons(outcome)) == (1, ["b/%h: 3.0 is more than one"])


def test_every_match_is_one_application_and_none_is_matched_twice(run: Any) -> None:
    text = graph(
        "%h = add(%x, %x) : X", "%k = add(%h, %h) : X", "%y = add(%k, %k) : X", "return %y"
    )
    lines, outcome = run(Double(), text, numeric=True)
    assert outcome.applications == 3
    assert lines == [
        *(f"%{a} = scale(%{b}, factor=2.0)" for a, b in ("hx", "kh", "yk")),
        "return %y",
    ]


class Longer(Fuse):
    """What a rewrite makes has the pattern in it again."""

    def pattern(self, op: Any, x: Any) -> Any:
        return op.scale(x)

    def rewrite(self, op: Any, *, x: Any) -> Any:
        return op.scale(op.scale(x, factor=3.0), factor=1.0)


def test_what_a_rewrite_made_is_not_matched_again(run: Any) -> None:
    lines, outcome = run(
        Longer(), graph("%y = scale(%x, factor=3.0) : X", "return %y"), numeric=True
    )
    assert (outcome.applications, len(lines)) == (1, 3)


class Missing(Fuse):
    def rewrite(self, op: Any, *, x: Any) -> Any:
        return None

    def pattern(self, op: Any, x: Any) -> Any:
        return op.scale(x)


class Unknown(Missing):
    def rewrite(self, op: Any, *, y: Any) -> Any:
        return y


@pytest.mark.parametrize("made", [Missing(), Unknown()], ids=lambda made: type(made).__name__)
def test_a_rewrite_that_goes_wrong_is_the_passs_fault(run: Any, made: RewritePass) -> None:
    with pytest.raises(PassFailed, match=r"^pass fuse: "):
        run(made, graph("%y = scale(%x, factor=3.0) : X", "return %y"))
