"""What authors' tests are given: `check_pass` fails where a pass breaks a promise, and says how."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from archsmith.compiler.errors import ArchsmithError
from archsmith.compiler.ir.graph import Graph
from archsmith.compiler.ir.model import Model
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.passes import Lossy, Pass
from archsmith.compiler.rewrite.pipeline import Runner
from archsmith.compiler.rewrite.rewriter import Rewriter
from archsmith.compiler.testing import cases, check_pass
from archsmith.passes.eliminate_dead import EliminateDead
from archsmith.passes.fuse_gate_up import FuseGateUp

EXAMPLES = Path(__file__).parents[1] / "examples"
BEFORE = """\
block b
  graph train, prefill, decode
    %x = input : float32[B, T, 8~3]
    %positions = input : int64[B, T]
    %h = scale(%x, factor=2.0) : float32[B, T, 8~3]
    %y = scale(%h, factor=3.0) : float32[B, T, 8~3]
    return %y
"""


@dataclass(frozen=True)
class Change(Pass):
    """What the passes here have in common: they are given the last node."""

    name = "change-last"

    def run(self, rewriter: Rewriter) -> None:
        self.at(rewriter, rewriter.graph.node(rewriter.graph.outputs[0]))

    def at(self, rewriter: Rewriter, node: Any) -> None: ...


def scaled(rewriter: Rewriter, node: Any, factor: float) -> None:
    (y,) = node.results
    rewriter.replace(y, rewriter.op.scale(y, factor=factor))


class Wrong(Change):
    def at(self, rewriter: Rewriter, node: Any) -> None:
        scaled(rewriter, node, 2.0)


class Grows(Change):
    """Right, each time again."""

    def at(self, rewriter: Rewriter, node: Any) -> None:
        scaled(rewriter, node, 1.0)


class Mute(Change):
    def at(self, rewriter: Rewriter, node: Any) -> None:
        rewriter.refuse(node, "")


class Remembers(Change):
    """It knows how often it ran: twice on what it is given, on what it made, and on the text."""

    runs: ClassVar[list[Graph]] = []

    def at(self, rewriter: Rewriter, node: Any) -> None:
        self.runs.append(rewriter.graph)
        if len(self.runs) > 4:
            rewriter.refuse(node, "I have seen this before")


class Loses(Change):
    effect = Lossy("perplexity", 0.02)


@pytest.mark.parametrize(
    ("made", "expected", "says"),
    [
        (
            Wrong(),
            {},
            r"^pass change-last: block b, .* differs by 1 in train \(after a change at %y\)$",
        ),
        (Grows(), {}, r"^pass change-last changes what it made when it runs again, 1 times$"),
        (Mute(), {}, r"^pass change-last: .* for the reason ''; say why in words"),
        (Loses(), {}, r"^pass change-last is lossy"),
        (Change(), {"refuses": "no"}, r"^pass change-last does not say 'no', but: nothing$"),
        (Change(), {"refuses": ("", "no")}, r"^pass change-last does not say '', but: nothing$"),
        (
            Change(),
            {"after": "block c"},
            r"^pass change-last made\nblock b\n(.*\n)*\nand not\nblock c$",
        ),
    ],
    ids=lambda made: type(made).__name__,
)
def test_what_is_not_kept_is_said(made: Pass, expected: dict[str, Any], says: str) -> None:
    with pytest.raises(AssertionError, match=says):
        check_pass(made, BEFORE, **expected)


def test_a_model_that_is_changed_is_told(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing that a pass is given leads there, so what runs it changes it."""
    apply = Runner.apply

    def changes(self: Runner, model: Model, made: Pass) -> Any:
        done = apply(self, model, made)
        model.blocks["b"].unused = ("more",)
        return done

    monkeypatch.setattr(Runner, "apply", changes)
    with pytest.raises(AssertionError, match=r"^pass change-last changed the model that it was g"):
        check_pass(Change(), BEFORE, registry=registry)


def test_what_depends_on_earlier_runs_is_told() -> None:
    Remembers.runs.clear()
    with pytest.raises(AssertionError, match="does something else on the same graph, read from"):
        check_pass(Remembers(), BEFORE)


@pytest.mark.parametrize("form", [str, Path, lambda path: path.read_text()])
def test_specs_in_every_form(form: Any, registry: Registry) -> None:
    outcome = check_pass(FuseGateUp(), form(EXAMPLES / "tiny-llama.yaml"), registry=registry)
    assert outcome.applications == 1
    assert outcome.trials > 0


def test_graphs_in_every_form(tmp_path: Path) -> None:
    (tmp_path / "b.ir").write_text(BEFORE)
    for graph in (BEFORE, tmp_path / "b.ir", str(tmp_path / "b.ir")):
        assert check_pass(EliminateDead(), graph, after=BEFORE).applications == 0


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "has no case"),
        (f"# title: Does something\n{BEFORE}", "'Does something' has no arrow"),
        (f"# title: Leaves it alone\n{BEFORE}\n->\n{BEFORE}", "'Leaves it alone' has an arrow"),
    ],
)
def test_a_file_that_holds_no_cases(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "some.ir").write_text(text)
    with pytest.raises(ArchsmithError, match=says):
        cases(tmp_path / "some.ir")


def test_authors_may_test_with_what_they_like() -> None:
    code = "import sys, archsmith.compiler.testing; print('pytest' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
