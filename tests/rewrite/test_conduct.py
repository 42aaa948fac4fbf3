"""How passes behave beside what they compute: what they print, say and leave."""

from __future__ import annotations

from typing import Any

import pytest
from archsmith.compiler.ir.model import Model
from archsmith.compiler.ir.parse import parse_model
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.pipeline import Runner
from archsmith.compiler.rewrite.rewriter import Rewriter

from .bad import TEXT, Bad, fails


@pytest.fixture
def model(registry: Registry) -> Model:
    return parse_model(TEXT, registry.ops)


class Prints(Bad):
    def at(self, rewriter: Rewriter, node: Any) -> None:
        print("hello")


def test_what_a_pass_prints_is_no_result(
    model: Model, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    Runner(registry.ops).apply(model, Prints())
    said = capsys.readouterr()
    assert (said.out, "hello" in said.err) == ("", True)


class Escapes(Bad):
    def at(self, rewriter: Rewriter, node: Any) -> None:
        raise ValueError("\x1b[31m" + "x" * 5000)


def test_what_an_error_says_is_escaped_and_cut(model: Model, registry: Registry) -> None:
    failed = fails(model, registry, Escapes(), r"ValueError: \\x1b\[31mx+\.\.\.")
    assert "\x1b" not in str(failed)
    assert len(str(failed)) < 2500


class Empties(Bad):
    def at(self, rewriter: Rewriter, node: Any) -> None:
        rewriter.block.graphs.clear()


def test_a_block_keeps_its_graphs(model: Model, registry: Registry) -> None:
    fails(model, registry, Empties(), "^pass bad: .*has no longer the graphs")


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"effect": "rouding"}, "has the effect 'rouding'; there are 'exact', 'rounding'"),
        ({"phases": ("training",)}, "has the phases .*; it takes a tuple of 'train'"),
        ({"phases": "train"}, "has the phases 'train'"),
        ({"name": "Two Words"}, "is called 'Two Words'; a name is of small letters"),
    ],
    ids=str,
)
def test_what_a_pass_says_of_itself_is_checked(
    model: Model, registry: Registry, given: dict[str, Any], says: str
) -> None:
    fails(model, registry, type("Odd", (Bad,), given)(), says)
