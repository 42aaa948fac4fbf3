"""A pass that goes wrong is contained: whose and where it was is said, the model is as before."""

from __future__ import annotations

import itertools
import signal
import sys
import threading
import time
from collections.abc import Iterator
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

from .text_graphs import graph

TEXT = graph("%h = scale(%x, factor=3.0) : X", "%y = scale(%h, factor=2.0) : X", "return %y, %h")
QUICK = 0.3  # seconds that a pass has here; what hangs, hangs forever


@pytest.fixture
def model(registry: Registry) -> Model:
    return parse_model(TEXT, registry.ops)


def fails(model: Model, registry: Registry, made: Any, says: str, **limits: Any) -> PassFailed:
    """Run a pass that fails; the model and the process are as they were."""
    before = print_model(model)
    state = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL), sys.gettrace()
    with pytest.raises(PassFailed, match=says) as failed:
        Runner(registry.ops, **limits).apply(model, made)
    assert print_model(model) == before
    assert failed.value.exit_code == 3
    found = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL), sys.gettrace()
    assert found == state
    return failed.value


@dataclass(frozen=True)
class Bad(Pass):
    """What the passes here have in common: the node that they look at, and a name."""

    name = "bad"

    def run(self, rewriter: Rewriter) -> None:
        node = rewriter.graph.get("y")
        self.at(rewriter, node)

    def at(self, rewriter: Rewriter, node: Any) -> None: ...


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
        (Raises(), r"^pass bad: block b, at %y: ValueError: a bug$"),
        (RaisesMute(), r"^pass bad: block b, at %y: Mute: and cannot say what$"),
        (Exits(), r"^pass bad: block b, at %y: SystemExit: 0$"),
        (Leaves(), r"^pass bad: block b, at %y: GeneratorExit: $"),
        (MutatesAndRaises(), r"^pass bad: block b, at %y: ValueError: a bug$"),
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
    says = r"^pass bad: block b, at %y: it ran for more than 0.3 seconds$"
    fails(model, registry, made, says, seconds=QUICK)
    assert time.monotonic() - start < 30


def test_what_eats_memory(model: Model, registry: Registry) -> None:
    says = r"^pass bad: block b, at %y: it wanted more than 0.25 GiB of memory$"
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
    with pytest.raises(KeyboardInterrupt):
        Runner(registry.ops).apply(model, Interrupted())
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


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
    fails(model, registry, Matches(), r"^pass matches: block b, at %y: KeyError: 'gone'$")
    says = r"^pass matches: block b, value %h differs by .* in train \(after a change at %h\)$"
    failed = fails(model, registry, Wrong(), says)
    assert (failed.block, failed.node) == ("b", "h")
    assert failed.after is not None
    assert "factor=6.0" in print_model(failed.after)


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


@dataclass(frozen=True)
class WholeModel(ModelPass):
    name = "whole"

    def run(self, rewriter: ModelRewriter) -> None:
        (one,) = rewriter.of("b")
        one.replace(one.graph.node(one.graph.outputs[0]).results[0], one.graph.outputs[1])
        raise ValueError("a bug")


def test_a_pass_of_models(model: Model, registry: Registry) -> None:
    fails(model, registry, WholeModel(), r"^pass whole: block b, at %y: ValueError: a bug$")


def test_a_third_partys_pass_is_named_with_its_distribution(
    model: Model, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = registry.passes["fuse-relu-squared"]

    def broken(self: Any, rewriter: Rewriter) -> None:
        raise ValueError("a bug")

    monkeypatch.setattr(plugin, "applications", broken)
    says = r"^pass fuse-relu-squared of archsmith-relu2 0\.1\.0: block b: ValueError: a bug$"
    assert str(fails(model, registry, plugin(), says).plugin) == "archsmith-relu2 0.1.0"
