"""Lossy passes: what they lose is measured on a checkpoint, and held to their budget."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
from archsmith.compiler.cli import main
from archsmith.compiler.driver import Compiler
from archsmith.compiler.errors import ArchsmithError
from archsmith.compiler.ir.dims import ONE
from archsmith.compiler.ops.attention import Attend
from archsmith.compiler.ops.moe import Route
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.passes import Lossy, Pass
from archsmith.compiler.rewrite.pipeline import PassFailed
from archsmith.compiler.rewrite.rewriter import Rewriter
from click.testing import CliRunner
from models.configurations.deepseek_v2 import BASE as V2
from models.tiny import Case, save


@dataclass(frozen=True)
class FewerExperts(Pass):
    """Each token uses one expert less."""

    name = "fewer-experts"
    effect: ClassVar[Lossy] = Lossy("perplexity", 0.5)

    def run(self, rewriter: Rewriter) -> None:
        for node in list(rewriter.graph.nodes()):
            if isinstance(node.op, Route) and node.op.top_k.size > 3:
                fewer = replace(node.op, top_k=node.op.top_k - ONE)
                operands = rewriter.graph.operands(node)
                chosen = rewriter.add(fewer, *operands, name=[v.name for v in node.results])
                for user in rewriter.graph.users(node.results[0]):
                    assert user.op is not None
                    x, _, _, *weights = rewriter.graph.operands(user)
                    rewriter.replace(user.results, [rewriter.add(user.op, x, *chosen, *weights)])


@dataclass(frozen=True)
class Spoil(FewerExperts):
    name = "spoil"
    effect: ClassVar[Lossy] = Lossy("kl", 1e-9)


@dataclass(frozen=True)
class Unmeasured(FewerExperts):
    name = "unmeasured"
    effect: ClassVar[Lossy] = Lossy("beauty", 1.0)


@dataclass(frozen=True)
class SharperWithACache(Pass):
    """Scores grow where there is a cache, of which training sees nothing."""

    name = "sharper-with-a-cache"
    phases = ("prefill", "decode")
    effect: ClassVar[Lossy] = Lossy("logits", 1e-6)

    def run(self, rewriter: Rewriter) -> None:
        for node in list(rewriter.graph.nodes()):
            if isinstance(node.op, Attend) and node.op.scale < 10:
                sharper = replace(node.op, scale=node.op.scale * 100)
                operands = rewriter.graph.operands(node)
                rewriter.replace(node.results, [rewriter.add(sharper, *operands)])


@dataclass(frozen=True)
class Nothing(Pass):
    name = "nothing"
    effect: ClassVar[Lossy] = Lossy("logits", 0.0)

    def run(self, rewriter: Rewriter) -> None:
        """Finds nothing to do."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of a tiny model, and its spec beside it."""
    made = tmp_path_factory.mktemp("judged")
    save(Case("deepseek_v2", "judged", V2), made / "checkpoint")
    text, _ = Compiler.installed().read_configuration(made / "checkpoint", "judged")
    (made / "spec.yaml").write_text(text)
    return made


def test_what_is_lost_is_measured_and_told(folder: Path) -> None:
    compiler = Compiler.installed()
    spec = compiler.load(folder / "spec.yaml")
    report = compiler.package(
        spec,
        folder / "pruned",
        "own",
        [FewerExperts(), Nothing()],
        prove=False,
        weights=folder / "checkpoint",
    )
    pruned, nothing = report.outcomes
    assert pruned.loss is not None
    assert 1e-6 < pruned.loss < 0.5
    assert (nothing.applications, nothing.loss) == (0, None)
    assert report.json()["passes"][0]["loss"] == pruned.loss
    (said, _) = json.loads((folder / "pruned" / "plan.json").read_text())["certificate"]["passes"]
    assert said["effect"] == "lossy, perplexity at most 0.5"
    assert said["proof"]["method"] == "loss on a checkpoint"


def test_a_budget_is_held(folder: Path) -> None:
    compiler = Compiler.installed()
    spec = compiler.load(folder / "spec.yaml")
    with pytest.raises(PassFailed, match=r"pass spoil: .*kl is \S+, its budget is 1e-09") as failed:
        compiler.package(
            spec, folder / "no", "own", [Spoil()], prove=False, weights=folder / "checkpoint"
        )
    passes = [SharperWithACache()]
    with pytest.raises(PassFailed, match=r"logits is \S+, its budget is 1e-06"):
        compiler.package(
            spec, folder / "no", "own", passes, prove=False, weights=folder / "checkpoint"
        )
    with pytest.raises(PassFailed, match="lossy by 'beauty'; what is measured is kl, logits, perp"):
        compiler.package(
            spec, folder / "no", "own", [Unmeasured()], prove=False, weights=folder / "checkpoint"
        )
    assert not (folder / "no").exists()
    assert "`archsmith build SPEC --pipeline spoil --weights CHECKPOINT`" in str(
        failed.value.__notes__
    )


def test_without_weights_a_lossy_pass_does_not_run(folder: Path) -> None:
    compiler = Compiler.installed()
    spec = compiler.load(folder / "spec.yaml")
    with pytest.raises(ArchsmithError, match="build --weights CHECKPOINT"):
        compiler.package(spec, folder / "no", "own", [FewerExperts()])


def test_of_the_same_model_nothing_is_lost(folder: Path) -> None:
    compiler = Compiler.installed()
    spec = compiler.load(folder / "spec.yaml")
    model = compiler.build(spec)
    losses = compiler.judge(spec, folder / "checkpoint")(model, model)
    assert losses == {"kl": 0.0, "perplexity": 0.0, "logits": 0.0}


def test_the_command_line_takes_weights(folder: Path) -> None:
    arguments = ["build", str(folder / "spec.yaml"), "-o", str(folder / "built")]
    done = CliRunner().invoke(main, [*arguments, "--weights", str(folder / "nowhere")])
    assert done.exit_code == 1
    assert "is no folder with a checkpoint" in done.output


def test_registered_passes_say_what_they_do_to_results() -> None:
    for name, plugin in Registry.installed().passes.items():
        effect = plugin.effect
        assert effect in ("exact", "rounding") or isinstance(effect, Lossy), name
