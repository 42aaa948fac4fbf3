"""A pass that goes wrong is contained: whose and where it was is said, the model is as before."""

from __future__ import annotations

import itertools
import signal
import sys
import threading
import time
from dataclasses import dataclass
from typing import Any

import pytest
from archsmith.compiler.ir.model import Model
from archsmith.compiler.ir.parse import parse_model
from archsmith.compiler.ir.text import print_model
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.passes import ModelPass, Pass
from archsmith.compiler.rewrite.pattern import RewritePass
from archsmith.compiler.rewrite.pipeline import PassFailed, Runner
from archsmith.compiler.rewrite.rewriter import ModelRewriter, Rewriter

from .bad import TEXT, Bad, fails

HERE = r", at test_containment\.py:\d+$"
QUICK = 0.3  # seconds that a pass has here; what hangs, hangs forever


@pytest.fixture
def model(registry: Registry) -> Model:
    return parse_model(TEXT, registry.ops)


class Raises(Bad):
    def at(self, rewriter: Rewriter, node: Any) -> None:
        raise ValueError("a bug")


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError


class RaisesMute(Bad):
    def at(self, rewriter: Rewriter, node: Any) -> None:
        raise Mute


class Exits(Bad):
    def at(self, rewriter: Rewriter, node: Any) -> None:
        sys.exit(0)


class Leaves(Bad):
    def at(self, rewriter: Rewriter, node: Any) -> None:
        raise GeneratorExit


class MutatesAndRaises(Bad):
    def at(self, rewriter: Rewriter, node: Any) -> None:
        (y,) = node.results
        rewriter.replace(y, rewriter.op.scale(y, factor=9.0))
        rewriter.block.params["made up"] = rewriter.block.caches["x"] = None  # type: ignore
        raise ValueError("a bug")


class Hangs(Bad):
    def at(self, rewriter: Rewriter, node: Any) -> None:
        for _ in itertools.count():
            pass


class Sleeps(Bad):
    def at(self, rewriter: Rewriter, node: Any) -> None:
        time.sleep(1e6)


class HangsOn(Bad):
    """It takes whatever is raised, at two levels, and goes on."""

    def at(self, rewriter: Rewriter, node: Any) -> None:
        while True:
            try:
                while True:
                    try:  # noqa: SIM105
                        time.sleep(1)
                    except:  # noqa: E722
                        pass
            except BaseException:
                time.sleep(1)


class Recurs(Bad):
    def at(self, rewriter: Rewriter, node: Any) -> None:
        self.at(rewriter, node)


class Eats(Bad):
    def at(self, rewriter: Rewriter, node: Any) -> None:
        held = []
        while True:
            held.append(bytearray(1 << 26))


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (Raises(), r"^pass bad: block b, at %y: ValueError: a bug" + HERE),
        (RaisesMute(), r"^pass bad: block b, at %y: Mute: and cannot say what" + HERE),
        (Exits(), r"^pass bad: block b, at %y: SystemExit: 0" + HERE),
        (Leaves(), r"^pass bad: block b, at %y: GeneratorExit: " + HERE),
        (MutatesAndRaises(), r"^pass bad: block b, at %y: ValueError: a bug" + HERE),
        (Recurs(), r"^pass bad: block b, at %y: RecursionError: "),
    ],
    ids=lambda made: type(made).__name__,
)
def test_what_is_raised(model: Model, registry: Registry, made: Pass, says: str) -> None:
    failed = fails(model, registry, made, says)
    assert (failed.name, failed.block, failed.node) == ("bad", "b", "y")
    assert failed.plugin is None  # no distribution has a test


@pytest.mark.parametrize("made", [Hangs(), Sleeps(), HangsOn()], ids=lambda m: type(m).__name__)
def test_what_hangs(model: Model, registry: Registry, made: Pass) -> None:
    start = time.monotonic()
    says = r"^pass bad: block b, at %y: it ran for more than 0.3 seconds" + HERE
    fails(model, registry, made, says, seconds=QUICK)
    assert time.monotonic() - start < 30


def test_what_eats_memory(model: Model, registry: Registry) -> None:
    says = r"^pass bad: block b, at %y: it wanted more than 0.25 GiB of memory" + HERE
    fails(model, registry, Eats(), says, memory=1 << 28)
    assert len(bytearray(1 << 29)) == 1 << 29  # what is not a pass has no limit


def test_a_timer_of_another_goes_on(model: Model, registry: Registry) -> None:
    rung: list[int] = []
    handler = signal.signal(signal.SIGALRM, lambda number, frame: rung.append(number))
    try:
        signal.setitimer(signal.ITIMER_REAL, QUICK)
        Runner(registry.ops).apply(model, Bad())
        assert not rung
        time.sleep(2 * QUICK)
        assert rung == [signal.SIGALRM]
    finally:
        signal.signal(signal.SIGALRM, handler)


def test_elsewhere_than_in_the_main_thread_there_is_no_limit(
    model: Model, registry: Registry
) -> None:
    found: list[PassFailed] = []

    def work() -> None:
        Runner(registry.ops).apply(model, Bad())
        with pytest.raises(PassFailed) as failed:
            Runner(registry.ops).apply(model, Raises())
        found.append(failed.value)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert [(failed.block, failed.node) for failed in found] == [("b", "y")]


class Interrupted(Bad):
    def at(self, rewriter: Rewriter, node: Any) -> None:
        signal.raise_signal(signal.SIGINT)


def test_what_a_user_interrupts_is_interrupted(model: Model, registry: Registry) -> None:
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            Runner(registry.ops).apply(model, Interrupted())
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@dataclass(frozen=True)
class Matches(RewritePass):
    name = "matches"

    def pattern(self, op: Any, x: Any) -> Any:
        return op.scale(x, bind="by")

    def rewrite(self, op: Any, *, x: Any, by: Any) -> Any:
        if by.factor == 2.0:
            raise KeyError("gone")
        return op.scale(x, factor=by.factor)


class Wrong(Matches):
    def rewrite(self, op: Any, *, x: Any, by: Any) -> Any:
        return op.scale(x, factor=2 * by.factor)


def test_a_match_is_named(model: Model, registry: Registry) -> None:
    fails(model, registry, Matches(), r"^pass matches: block b, at %y: KeyError: 'gone'" + HERE)
    says = r"^pass matches: block b, value %h differs by .* in train \(after a change at %h\)$"
    failed = fails(model, registry, Wrong(), says)
    assert (failed.block, failed.node) == ("b", "h")
    assert failed.after is not None
    assert "factor=6.0" in print_model(failed.after)


@dataclass(frozen=True)
class WholeModel(ModelPass):
    name = "whole"

    def run(self, rewriter: ModelRewriter) -> None:
        (one,) = rewriter.of("b")
        one.replace(one.graph.node(one.graph.outputs[0]).results[0], one.graph.outputs[1])
        raise ValueError("a bug")


def test_a_pass_of_models(model: Model, registry: Registry) -> None:
    fails(model, registry, WholeModel(), r"^pass whole: block b, at %y: ValueError: a bug" + HERE)


def test_a_third_partys_pass_is_named_with_its_distribution(
    model: Model, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = registry.passes["fuse-relu-squared"]

    def broken(self: Any, rewriter: Rewriter) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(plugin, "applications", broken)
    says = r"^pass fuse-relu-squared of archsmith-relu2 0\.1\.0: block b: ValueError: a bug$"
    assert str(fails(model, registry, plugin(), says).plugin) == "archsmith-relu2 0.1.0"


class TooLate(Bad):
    """It changes the graph once it has said that it is done."""

    def applications(self, rewriter: Rewriter) -> Any:
        yield
        for node in list(rewriter.graph.nodes()):
            if node.op is not None:
                (y,) = node.results
                rewriter.replace(y, rewriter.op.scale(y, factor=9.0))
                return


class Unsaid(Bad):
    """It never says that it has applied."""

    def applications(self, rewriter: Rewriter) -> Any:
        y, h = rewriter.graph.outputs
        rewriter.returns(rewriter.op.scale(y, factor=9.0), h)
        yield from ()


@pytest.mark.parametrize("pass_", [TooLate(), Unsaid()], ids=lambda p: type(p).__name__)
def test_what_is_changed_behind_the_last_application_is_proved_too(
    pass_: Pass, model: Model, registry: Registry
) -> None:
    with pytest.raises(PassFailed, match="differs by"):
        Runner(registry.ops).apply(model, pass_)
