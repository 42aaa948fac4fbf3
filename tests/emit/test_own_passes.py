"""Passes written here: they change what is emitted, and wrong ones are found and named."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from archsmith.compiler.cli import main
from archsmith.compiler.driver import Compiler
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.graph import Value
from archsmith.compiler.ir.weights import Concat, Slice
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.passes import Pass
from archsmith.compiler.rewrite.pattern import RewritePass
from archsmith.compiler.rewrite.rewriter import Rewriter
from click.testing import CliRunner

EXAMPLES = Path(__file__).parents[2] / "examples"


@dataclass(frozen=True)
class SwapHeads(Pass):
    """A bug: the first two heads of the query change places, and the others do not."""

    name = "swap-heads"

    def run(self, rewriter: Rewriter) -> None:
        for value in rewriter.graph.params:
            if value.name in ("q", "q_b"):
                program, one = rewriter.program(value), Dim.of(1)
                rest = program.shape[0] - 2
                parts = [(one, one), (Dim.of(0), one), (Dim.of(2), rest)]
                swapped = Concat(tuple(Slice(program, 0, a, n) for a, n in parts), 0)
                rewriter.replace(value, rewriter.param(value.name, swapped))


@dataclass(frozen=True)
class ScaleTwice(RewritePass):
    """Right, if of no use: what is activated is doubled and halved."""

    name = "scale-twice"
    factor: float = 2.0

    def pattern(self, op: Any, x: Value, y: Value) -> Value:
        return op.mul(op.activation(x, bind="act"), y)

    def rewrite(self, op: Any, *, x: Value, y: Value, act: Any) -> Value:
        doubled = op.scale(op.activation(x, function=act.function), factor=self.factor)
        return op.mul(op.scale(doubled, factor=1 / self.factor), y)


@dataclass(frozen=True)
class ScaleTwiceDecoding(ScaleTwice):
    """As `ScaleTwice`, where one token comes at a time."""

    name = "scale-twice-decoding"
    phases = ("decode",)


@dataclass(frozen=True)
class ScaleTwiceTraining(ScaleTwice):
    """As `ScaleTwice`, where there is no cache."""

    name = "scale-twice-training"
    phases = ("train",)


def emitted(compiler: Compiler, folder: Path, *passes: Pass) -> str:
    """The layer's class, from a package that is proved."""
    spec = compiler.load(EXAMPLES / "tiny-llama.yaml")
    own = replace(compiler, numeric=True)
    report = own.package(spec, folder / "package", "own", list(passes))
    assert report.proof is not None
    text = (folder / "package" / "model.py").read_text()
    return text.partition("class Layer(")[2].partition("class Model(")[0]


def test_a_pass_changes_the_model(compiler: Compiler, tmp_path: Path) -> None:
    text = emitted(compiler, tmp_path, ScaleTwice())
    assert "F.silu(F.linear(h, self.gate)) * 2.0 * 0.5 * F.linear(h, self.up)" in text
    assert text.count("def forward") == 1
    assert text.count("    def ") == 2


def test_a_passs_option_is_in_the_model(compiler: Compiler, tmp_path: Path) -> None:
    assert "* 8.0 * 0.125 *" in emitted(compiler, tmp_path, ScaleTwice(factor=8.0))


def test_a_pass_for_one_phase_gives_a_method_of_its_own(compiler: Compiler, tmp_path: Path) -> None:
    text = emitted(compiler, tmp_path, ScaleTwiceDecoding())
    before, _, decode = text.partition("    def _decode(")
    assert "2.0 * 0.5" in decode
    assert "2.0 * 0.5" not in before
    assert "    def _train(" in before
    assert "cache: LayerCache | None = None" in before
    assert "cache is None" not in decode


def test_three_phases_have_three_methods(compiler: Compiler, tmp_path: Path) -> None:
    text = emitted(compiler, tmp_path, ScaleTwiceDecoding(), ScaleTwiceTraining(4.0))
    train, _, rest = text.partition("    def _prefill(")
    prefill, _, decode = rest.partition("    def _decode(")
    for method, factors in ((train, "4.0 * 0.25"), (prefill, ""), (decode, "2.0 * 0.5")):
        assert factors in method
        assert ("2.0 * 0.5" in method) == (factors == "2.0 * 0.5")
    assert "causal=True" in train
    assert "cache.write" not in train
    assert "causal=cache.fresh" in prefill


def test_a_pass_that_swaps_two_heads_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    left = tmp_path_factory.mktemp("left")
    monkeypatch.setattr("tempfile.tempdir", str(left))
    registry = Registry.installed()
    own = replace(registry, passes={**registry.passes, SwapHeads.name: SwapHeads})
    monkeypatch.setattr(Registry, "installed", classmethod(lambda cls, *_: own))
    page, folder = str(EXAMPLES / "tiny-llama.yaml"), str(tmp_path / "package")
    result = CliRunner().invoke(main, ["build", page, "-o", folder, "--pipeline", "swap-heads"])
    assert result.exit_code == 3
    assert "swap-heads: block layer, value %q" in result.stderr
    assert "before.ir --passes swap-heads` repeats it" in result.stderr
    assert {path.name for path in left.rglob("*.ir")} == {"before.ir", "after.ir"}
    assert list(tmp_path.iterdir()) == []
