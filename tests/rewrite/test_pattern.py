"""Patterns: what they find in a graph, and what they say of what is otherwise."""

from __future__ import annotations

from typing import Any

import pytest
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.pipeline import Outcome

from .text_graphs import Fuse, graph, reasons, runner


@pytest.fixture
def run(registry: Registry) -> Any:
    return runner(registry)


class Double(Fuse):
    def pattern(self, op: Any, x: Any) -> Any:
        return op.add(x, x)


def test_a_variable_is_one_value(run: Any) -> None:
    lines, outcome = run(
        Double(),
        graph(
            "%h = scale(%x, factor=3.0) : X",
            "%y = add(%x, %x) : X",
            "%z = add(%y, %h) : X",
            "return %z",
        ),
        numeric=True,
    )
    assert lines[1:] == ["%y = scale(%x, factor=2.0)", "%z = add(%y, %h)", "return %z"]
    assert (outcome.applications, reasons(outcome)) == (1, ["b/%z: %h is not %y"])


class Gated(Fuse):
    """A product of an activation and anything."""

    def pattern(self, op: Any, x: Any, y: Any) -> Any:
        return op.mul(op.activation(x, bind="act"), y)

    def rewrite(self, op: Any, *, x: Any, y: Any, act: Any) -> Any:
        assert act.function == "silu"
        return op.add(x, y)


@pytest.mark.parametrize("product", ["mul(%a, %h)", "mul(%h, %a)"])
def test_commutative_ops_match_in_either_order(run: Any, product: str) -> None:
    lines, outcome = run(
        Gated(),
        graph(
            "%h = scale(%x, factor=3.0) : X",
            '%a = activation(%x, function="silu") : X',
            f"%y = {product} : X",
            "return %y",
        ),
    )
    assert lines[1:] == ["%y = add(%x, %h)", "return %y"]
    assert (outcome.applications, reasons(outcome)) == (1, [])


class Nested(Fuse):
    def pattern(self, op: Any, x: Any, y: Any) -> Any:
        return op.mul(op.add(op.softcap(x), y), x)


@pytest.mark.parametrize("total", ["add(%c, %h)", "add(%h, %c)"])
@pytest.mark.parametrize("product", ["mul(%s, %x)", "mul(%x, %s)"])
def test_orders_are_tried_within_orders(run: Any, total: str, product: str) -> None:
    _, outcome = run(
        Nested(),
        graph(
            "%h = scale(%x, factor=3.0) : X",
            "%c = softcap(%x, cap=1.0) : X",
            f"%s = {total} : X",
            f"%y = {product} : X",
            "return %y",
        ),
    )
    assert outcome.applications == 1


class Thrice(Fuse):
    """Only the right order of a commutative op binds a variable as the rest needs it."""

    def pattern(self, op: Any, x: Any, y: Any) -> Any:
        return op.mul(op.add(x, y), op.scale(y))


def test_an_order_that_fails_later_is_taken_back(run: Any) -> None:
    text = graph(
        "%h = softcap(%x, cap=1.0) : X",
        "%s = add(%h, %x) : X",
        "%k = scale(%h, factor=3.0) : X",
        "%y = mul(%s, %k) : X",
        "return %y",
    )
    _, outcome = run(Thrice(), text)
    assert (outcome.applications, reasons(outcome)) == (1, [])


class Order(Fuse):
    def pattern(self, op: Any, x: Any, y: Any) -> Any:
        return op.concat(op.softcap(x), y)

    def rewrite(self, op: Any, *, x: Any, y: Any) -> Any:
        return op.concat(x, y)


def test_other_ops_match_in_their_order_only(run: Any) -> None:
    text = graph(
        "%c = softcap(%x, cap=1.0) : X", "%y = concat(%x, %c) : float32[B, T, 16~6]", "return %y"
    )
    _, outcome = run(Order(), text)
    assert reasons(outcome) == ["b/%y: %x is an input, the pattern wants a softcap"]


SPLIT = "%a, %b = split(%x, sizes=(3~1, 5~2)) : float32[B, T, 3~1], float32[B, T, 5~2]"


class OneHalf(Fuse):
    def pattern(self, op: Any, x: Any) -> Any:
        return op.softcap(op.split(x)[1])

    def rewrite(self, op: Any, *, x: Any) -> Any:
        return op.softcap(x, cap=1.0)


@pytest.mark.parametrize(
    ("half", "reason"),
    [("a", "%a is another result of split than the pattern wants"), ("b", "%a is also read by %y")],
)
def test_a_result_is_told_from_the_others(run: Any, half: str, reason: str) -> None:
    other = {"a": "b", "b": "a"}[half]
    width = {"a": "3~1", "b": "5~2"}[half]
    text = graph(
        SPLIT,
        f"%c = softcap(%{half}, cap=1.0) : float32[B, T, {width}]",
        f"%y = concat(%c, %{other}) : X",
        "return %y",
    )
    _, outcome = run(OneHalf(), text)
    assert reason in " ".join(reasons(outcome))


class OfTwo(Fuse):
    def pattern(self, op: Any, x: Any) -> Any:
        return op.softcap(op.scale(x, factor=2.0), cap=1.0)


def test_attributes_given_must_be_equal(run: Any) -> None:
    def tried(factor: float, cap: float) -> Outcome:
        return run(
            OfTwo(),
            graph(
                f"%h = scale(%x, factor={factor}) : X",
                f"%y = softcap(%h, cap={cap}) : X",
                "return %y",
            ),
        )[1]

    assert tried(2.0, 1.0).applications == 1
    assert reasons(tried(3.0, 1.0)) == ["b/%y: factor of %h is 3.0, not 2.0"]
    assert reasons(tried(2.0, 1.5)) == ["b/%y: cap of %y is 1.5, not 1.0"]
