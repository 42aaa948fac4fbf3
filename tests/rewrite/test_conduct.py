"""How a pass must behave, whatever it computes: keep what a block takes, come to an end, repeat."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from archsmith.compiler.ir.model import Model
from archsmith.compiler.ir.parse import parse_model
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.passes import Pass
from archsmith.compiler.rewrite.rewriter import Rewriter

from .bad import TEXT, Bad, fails


@pytest.fixture
def model(registry: Registry) -> Model:
    return parse_model(TEXT, registry.ops)


class Drops(Bad):
    def at(self, rewriter: Rewriter, node: Any) -> None:
        rewriter.returns(*node.results)


class Widens(Bad):
    def at(self, rewriter: Rewriter, node: Any) -> None:
        (y,) = node.results
        rewriter.returns(rewriter.op.concat(y, y), rewriter.graph.outputs[1])


class Takes(Bad):
    def at(self, rewriter: Rewriter, node: Any) -> None:
        rewriter.input("more", node.results[0].type)


@pytest.mark.parametrize("numeric", [True, False])
@pytest.mark.parametrize(
    ("made", "says"),
    [
        (Drops(), r"^pass bad: block b returns float32\[B, T, 8~3\], where it was float32.*, flo"),
        (
            Widens(),
            r"^pass bad: block b returns .*16~6\], .*\(after a change at %concat\)",
        ),
        (Takes(), r"^pass bad: block b takes float32.*, float32"),
    ],
    ids=lambda made: type(made).__name__,
)
def test_what_a_block_takes_and_returns_stays(
    model: Model, registry: Registry, made: Pass, says: str, numeric: bool
) -> None:
    fails(model, registry, made, says, numeric=numeric)


class Endless(Bad):
    """It undoes what it did, and starts anew."""

    def applications(self, rewriter: Rewriter) -> Iterator[None]:
        while True:
            yield


def test_what_does_not_come_to_an_end(model: Model, registry: Registry) -> None:
    fails(model, registry, Endless(), r"applied 10000 times and did not come to an end$")


class Counts(Bad):
    """Each of these does something else each time: it counts how often it ran."""

    def times(self) -> int:
        return next(globals()["COUNT"])


class Renames(Counts):
    def at(self, rewriter: Rewriter, node: Any) -> None:
        (x,) = rewriter.graph.operands(node)
        made = rewriter.op.scale(x, factor=2.0, name=f"z{self.times()}")
        rewriter.replace(node.results[0], rewriter.op.scale(made, factor=1.0, name="y"))


class Talks(Counts):
    def at(self, rewriter: Rewriter, node: Any) -> None:
        rewriter.refuse(node, f"reason {self.times()}")


class RaisesLater(Counts):
    def at(self, rewriter: Rewriter, node: Any) -> None:
        if self.times():
            raise ValueError("a bug")


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (Renames(), r"^pass bad: it is not deterministic: it made `%z0 = scale.*`, and .*`%z1 = "),
        (Talks(), r"^pass bad: .* it said `b/%y: reason 0`, and then `b/%y: reason 1`"),
        (
            RaisesLater(),
            r"^pass bad: it is not deterministic: when it ran again, block b, at",
        ),
    ],
    ids=lambda made: type(made).__name__,
)
def test_what_is_not_deterministic(
    model: Model, registry: Registry, made: Pass, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "COUNT", itertools.count())
    fails(model, registry, made, says)
