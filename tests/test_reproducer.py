"""Reproducers and bisection: what fails, fails again as it is told, and is found in a pipeline."""

from __future__ import annotations

import json
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import pytest
from archsmith.compiler.bisection import bisect
from archsmith.compiler.cli import main
from archsmith.compiler.driver import Compiler
from archsmith.compiler.errors import ProofError
from archsmith.compiler.ir.parse import parse_model
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.order import resolve, written
from archsmith.compiler.rewrite.passes import Pass
from archsmith.compiler.rewrite.rewriter import Rewriter
from click.testing import CliRunner, Result

TINY = Path(__file__).parents[1] / "examples" / "tiny-llama.yaml"


@dataclass(frozen=True)
class ScaleOut(Pass):
    """A bug: what attention returns is scaled, unless by one."""

    name = "scale-out"
    factor: float = 1.0
    only: str = ""

    def run(self, rewriter: Rewriter) -> None:
        """Once: what is scaled already is left alone, so that two of these can cancel."""
        if self.factor == 1.0 or self.only not in ("", rewriter.target.name):
            return
        for node in rewriter.graph.nodes():
            if node.op is not None and node.op.name == "attend":
                (out,) = node.results
                rewriter.replace(out, rewriter.op.scale(out, factor=self.factor))


@dataclass(frozen=True)
class BreakDown(Pass):
    """A bug: it raises at every norm."""

    name = "break-down"

    def run(self, rewriter: Rewriter) -> None:
        for node in rewriter.graph.nodes():
            if node.op is not None and node.op.name == "rms_norm":
                raise ValueError("a bug")


@pytest.fixture(autouse=True)
def _installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The passes of this file are installed, and what failures leave goes to the test's folder."""
    found = Registry.installed()
    found.passes |= {"scale-out": ScaleOut, "break-down": BreakDown}
    monkeypatch.setattr(Registry, "installed", classmethod(lambda cls, only=(): found))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def told(result: Result) -> list[str]:
    (command,) = re.findall(r"^  = note: `(.*)` repeats it$", result.stderr, re.MULTILINE)
    program, *arguments = shlex.split(command)
    assert program == "archsmith"
    return arguments


@pytest.mark.parametrize(
    ("pipeline", "more", "says"),
    [
        (
            "scale-out{factor=0.5}",
            (),
            r"block layer, value %\w+ differs by .* \(after a change at %",
        ),
        (
            "eliminate-dead,scale-out{factor=3.0,only=h200}",
            ("--target", "h200"),
            "block layer, val",
        ),
        (
            "fuse-gate-up,break-down",
            (),
            r"block layer, at %h: ValueError: a bug, at test_reproducer\.py:\d+$",
        ),
        (
            "break-down",
            ("--verify-each", "structure"),
            r"block layer, at %\w+: ValueError: a bug, at test_reproducer\.py:\d+$",
        ),
    ],
)
def test_the_command_that_is_told_fails_alike(
    tmp_path: Path, pipeline: str, more: tuple[str, ...], says: str
) -> None:
    name = pipeline.rpartition("break-down")[1] or "scale-out"
    first = run("build", TINY, "-o", tmp_path / "package", "--pipeline", pipeline, *more)
    error = first.stderr.splitlines()[0]
    assert first.exit_code == 3
    assert "Traceback" not in first.stderr
    assert re.match(rf"error: pass {name}: {says}", error), error
    again = run(*told(first))
    assert (again.exit_code, again.stdout) == (3, "")
    assert again.stderr.splitlines()[0] == error


def test_what_a_reproducer_holds(tmp_path: Path) -> None:
    result = run("build", TINY, "-o", tmp_path / "package", "--pipeline", "scale-out{factor=0.5}")
    (folder,) = tmp_path.glob("archsmith-reproducer-*")
    assert told(result) == ["opt", f"{folder}/before.ir", "--passes", "scale-out{factor=0.5}"]
    ops = Registry.installed().ops
    before, after = (
        parse_model((folder / f"{n}.ir").read_text(), ops) for n in ("before", "after")
    )
    assert list(before.blocks) == list(after.blocks) == ["layer"]
    assert "factor=0.5" in (folder / "after.ir").read_text()
    page = (folder / "README.md").read_text()
    for part in (
        result.stderr.splitlines()[0].removeprefix("error: "),
        f"archsmith opt {folder}/before.ir --passes 'scale-out{{factor=0.5}}'",
        "| pass | scale-out{factor=0.5}, defined in `",
        "| block, node | layer, %",
        "| target | cpu |",
        "| proof | numbers, seed 0 |",
        f"Python {sys.version.partition(' ')[0]}",
    ):
        assert part in page
    assert "PassFailed" in (folder / "error.txt").read_text()


@dataclass(frozen=True)
class Elsewhere(Pass):
    """A bug: it raises, and says after which block."""

    name = "scale-out"
    seen: ClassVar[list[str]] = []

    def run(self, rewriter: Rewriter) -> None:
        self.seen.append(rewriter.block.name)
        if rewriter.block.name == "layer":
            raise ValueError(f"a bug after {self.seen[-2]}")


def test_a_reproducer_of_what_no_block_shows_alone(tmp_path: Path) -> None:
    Registry.installed().passes["scale-out"] = Elsewhere
    first = run("build", TINY, "-o", tmp_path / "package", "--pipeline", "scale-out")
    (folder,) = tmp_path.glob("archsmith-reproducer-*")
    assert (folder / "before.ir").read_text().startswith("model ")
    assert run(*told(first)).stderr.splitlines()[0] == first.stderr.splitlines()[0]


def test_a_reproducer_of_what_was_raised(tmp_path: Path) -> None:
    run("build", TINY, "-o", tmp_path / "package", "--pipeline", "break-down")
    (folder,) = tmp_path.glob("archsmith-reproducer-*")
    assert not (folder / "after.ir").exists()
    assert 'raise ValueError("a bug")' in (folder / "error.txt").read_text()


@pytest.mark.parametrize(
    "pass_", [ScaleOut(), ScaleOut(0.25), ScaleOut(1e-9, "row"), BreakDown()], ids=str
)
def test_a_pass_is_written_as_it_is_read(pass_: Pass) -> None:
    assert resolve(written(pass_), Registry.installed().passes, {}) == [pass_]


CANCEL = "eliminate-dead,scale-out{factor=0.5},fuse-add-rms-norm,scale-out{factor=2.0},fuse-gate-up"


def test_bisect_names_the_first_of_two_that_cancel() -> None:
    result = run("bisect", TINY, "--pipeline", CANCEL)
    assert result.exit_code == 3
    says = r"scale-out\{factor=0.5\} after eliminate-dead: block layer, value %\w+ differs by "
    assert re.match(says, result.stderr)
    found = json.loads(run("bisect", TINY, "--pipeline", CANCEL, "--json").stdout)
    assert found["differs"]
    assert found["pass"] == "scale-out{factor=0.5}"
    assert found["passed"] == ["eliminate-dead"]
    assert found["block"] == "layer"
    assert f"value %{found['value']} differs" in found["why"]


def test_bisect_finds_what_structure_let_through(tmp_path: Path) -> None:
    pipeline = "fuse-gate-up,scale-out{factor=0.5}"
    words = ["--verify-each", "structure", "--no-proof"]
    assert run("build", TINY, "-o", tmp_path / "p", "--pipeline", pipeline, *words).exit_code == 0
    assert run("bisect", TINY, "--pipeline", pipeline).exit_code == 3


def test_bisect_names_a_pass_that_raises() -> None:
    result = run("bisect", TINY, "--pipeline", "fuse-gate-up,break-down", "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 3
    assert (found["pass"], found["block"]) == ("break-down", "layer")
    assert "at %h: ValueError: a bug" in found["why"]


def test_bisect_finds_nothing_where_there_is_nothing() -> None:
    result = run("bisect", TINY, "--pipeline", "O2")
    assert result.exit_code == 0
    assert result.stderr.startswith("no pass differs, of ")
    result = run("bisect", TINY, "--pipeline", "fuse-gate-up", "--json")
    assert json.loads(result.stdout) == {"differs": False}


def test_bisect_on_a_target() -> None:
    pipeline = "scale-out{factor=0.5,only=h200}"
    assert run("bisect", TINY, "--pipeline", pipeline).exit_code == 0
    assert run("bisect", TINY, "--pipeline", pipeline, "--target", "h200").exit_code == 3


def test_bisect_proves_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that is wrong shows in the package, where the graphs agree."""
    compiler = Compiler.installed()
    spec = compiler.load(TINY)
    _, passes = compiler.passes("fuse-gated-activation")
    kernel = compiler.registry.kernels["torch.gated_activation"]
    right = kernel.call

    def wrong(self: Any, op: Any, gate: Any, up: Any, **given: Any) -> Any:
        return right(self, op, up, gate, **given)

    monkeypatch.setattr(kernel, "call", wrong)
    assert bisect(compiler, spec, passes) is None
    found = bisect(compiler, spec, passes, package=True)
    assert found is not None
    assert found.item == "fuse-gated-activation"
    assert "the emitted package differs from the graph" in found.why


def test_bisect_says_so_where_the_package_is_wrong_from_the_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def wrong(*_: object) -> None:
        raise ProofError("the emitted package differs")

    monkeypatch.setattr(Compiler, "prove", wrong)
    result = run("bisect", TINY, "--pipeline", "fuse-gate-up", "--package")
    assert result.exit_code == 3
    assert result.stderr.startswith("no pass: the emitted package differs")
