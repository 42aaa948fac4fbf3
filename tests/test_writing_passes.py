"""The page on writing passes: its example works, and its tables are complete."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.ir.graph import Graph
from archsmith.compiler.ops.elementwise import Scale
from archsmith.compiler.ops.linear import Einsum
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.passes import Pass
from archsmith.compiler.rewrite.rewriter import Rewriter
from archsmith.compiler.testing import check_pass

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "writing-passes.md").read_text(encoding="utf-8")

SCALED = """\
block b
  param %w = ref("w", (8~5, 4~3)) : float32[8~5, 4~3]
  graph train, prefill, decode
    %x = input : float32[B, T, 4~3]
    %positions = input : int64[B, T]
    %scale = scale(%x, factor=0.5) : float32[B, T, 4~3]
    %y = einsum(%scale, %w, equation="btd,fd->btf") : float32[B, T, 8~5]
    return %y
"""
FOLDED = """\
block b
  param %w = times(ref("w", (8~5, 4~3)), 0.5) : float32[8~5, 4~3]
  graph train, prefill, decode
    %x = input : float32[B, T, 4~3]
    %positions = input : int64[B, T]
    %y = einsum(%x, %w, equation="btd,fd->btf") : float32[B, T, 8~5]
    return %y
"""


@pytest.fixture(scope="module")
def fold() -> Any:
    """The pass that the page shows, of a module of its own."""
    code = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)[0]
    assert len(code.splitlines()) < 100
    module = ModuleType("shown")
    sys.modules["shown"] = module
    exec(compile(code, "shown", "exec"), module.__dict__)
    yield module.__dict__["FoldScale"]
    del sys.modules["shown"]


def test_the_example_does_what_it_says(fold: Any) -> None:
    check_pass(fold(), SCALED, after=FOLDED)


def test_the_example_says_why_not(fold: Any) -> None:
    twice = SCALED.replace("return %y", "return %y, %scale")
    check_pass(fold(), twice, refuses="%scale is read elsewhere too")


@dataclass(frozen=True)
class Detour(Pass):
    """The output projection is given half of twice its input."""

    name = "detour"

    def run(self, rewriter: Rewriter) -> None:
        for node in list(rewriter.graph.nodes()):
            operands = rewriter.graph.operands(node)
            if isinstance(node.op, Einsum) and [v.name for v in operands[1:]] == ["down"]:
                twice = rewriter.op.scale(operands[0], factor=2.0)
                if rewriter.graph.node(operands[0]).op != Scale(0.5):
                    half = rewriter.op.scale(twice, factor=0.5)
                    rewriter.replace(node.results, [rewriter.add(node.op, half, operands[1])])


def test_a_package_computes_its_weights(fold: Any, tmp_path: Path) -> None:
    compiler = Compiler.installed()
    spec = compiler.load(ROOT / "examples" / "tiny-llama.yaml")
    report = compiler.package(spec, tmp_path / "folded", "own", [Detour(), fold()])
    assert [outcome.applications for outcome in report.outcomes] == [1, 1]
    assert report.proof is not None
    assert "times(given[0], 0.5)" in (tmp_path / "folded" / "weights.py").read_text()


def test_the_table_of_ops_is_complete() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", PAGE[PAGE.index("## Ops") :], re.MULTILINE))
    ours = {
        name: op
        for name, op in Registry.installed().ops.items()
        if op.__module__.startswith("archsmith.")
    }
    assert set(rows) == set(ours)
    for name, op in ours.items():
        operands, attributes = (cell.strip() for cell in rows[name].split("|"))
        fields = [
            f.name + "?" * (f.default is not dataclasses.MISSING) for f in dataclasses.fields(op)
        ]
        assert attributes == ", ".join(fields), name
        given = [
            "*" * (p.kind is p.VAR_POSITIONAL) + p.name + "?" * (p.default is not p.empty)
            for p in list(inspect.signature(op.infer).parameters.values())[1:]
        ]
        assert operands == ", ".join(given), name


def test_every_method_of_the_rewriter_is_there() -> None:
    public = {name for name in vars(Rewriter) if not name.startswith("_")} - {"commit"}
    public -= {field.name for field in dataclasses.fields(Rewriter)}
    for name in public:
        assert re.search(rf"`{name}[`(]|, `{name}|`{name}\.", PAGE), name
    for name in ("nodes", "get", "node", "operands", "users", "value", "ancestors"):
        assert hasattr(Graph, name)
        assert f"`{name}(" in PAGE
