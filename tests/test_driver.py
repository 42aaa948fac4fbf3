"""The stages together: what a failure leaves behind, and what a build reports."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.ir.parse import parse_model
from archsmith.compiler.ir.text import print_block, print_model
from archsmith.compiler.rewrite.passes import Pass
from archsmith.compiler.rewrite.pipeline import PassFailed
from archsmith.compiler.rewrite.rewriter import Rewriter

EXAMPLE = Path(__file__).parents[1] / "examples" / "tiny-llama.yaml"


@dataclass(frozen=True)
class Halve(Pass):
    """A bug: what attention returns is halved."""

    name = "halve"

    def run(self, rewriter: Rewriter) -> None:
        for node in rewriter.graph.nodes():
            if node.op is not None and node.op.name == "attend":
                (out,) = node.results
                rewriter.replace(out, rewriter.op.scale(out, factor=0.5))


@pytest.fixture
def compiler() -> Compiler:
    return Compiler.installed()


def test_a_pass_that_fails_leaves_what_it_was_given(compiler: Compiler) -> None:
    model = compiler.build(compiler.load(EXAMPLE))
    before = print_model(model)
    with pytest.raises(PassFailed, match="pass halve: block layer, value %einsum") as failed:
        compiler.rewrite(model, [Halve()])
    assert print_model(model) == before
    (note,) = failed.value.__notes__
    (path,) = re.findall(r"archsmith opt (\S+) --passes halve", note)
    text = Path(path).read_text()
    assert text == print_block(model.blocks["layer"])
    parse_model(text, compiler.registry.ops)


def test_nothing_is_written_when_a_pass_fails(compiler: Compiler, tmp_path: Path) -> None:
    spec = compiler.load(EXAMPLE)
    with pytest.raises(PassFailed):
        compiler.package(spec, tmp_path / "package", "halve", [Halve()])
    assert not (tmp_path / "package").exists()


def test_the_report_of_a_build(compiler: Compiler, tmp_path: Path) -> None:
    name, passes = compiler.passes(None)
    assert name == "O2"
    report = compiler.package(compiler.load(EXAMPLE), tmp_path / "package", name, passes)
    assert report.proof is not None
    assert report.proof.trials > 0
    assert [outcome.name for outcome in report.outcomes] == list(compiler.registry.pipelines["O2"])
    assert all(outcome.applications == 0 or outcome.trials > 0 for outcome in report.outcomes)
    assert set(report.files.values()) == {"new"}
    again = compiler.package(compiler.load(EXAMPLE), tmp_path / "package", name, passes)
    assert set(again.files.values()) == {"same"}
