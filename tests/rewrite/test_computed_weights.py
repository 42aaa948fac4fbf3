"""The checker on weights that are computed: who may make them, and that nothing is lost by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
from archsmith.compiler.errors import ProofError
from archsmith.compiler.ir.computed import Rotate, Scale
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.graph import Value
from archsmith.compiler.ir.model import Model
from archsmith.compiler.ir.parse import parse_model
from archsmith.compiler.ir.weights import Concat, Program, Slice
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.passes import Pass
from archsmith.compiler.rewrite.pipeline import Runner
from archsmith.compiler.rewrite.rewriter import Rewriter

TEXT = """
block b
  param %gain = ref("gain", (24~7)) : float32[24~7]
  param %w = ref("w", (16~11, 24~7)) : float32[16~11, 24~7]
  graph train, prefill, decode
    %x = input : float32[B, T, 24~7]
    %positions = input : int64[B, T]
    %n = rms_norm(%x, %gain, eps=0.01) : float32[B, T, 24~7]
    %y = einsum(%n, %w, equation="btd,fd->btf") : float32[B, T, 16~11]
    return %y
"""
REGISTRY = Registry.installed()


def values(rewriter: Rewriter) -> dict[str, Value]:
    return {v.name: v for node in rewriter.graph.nodes() for v in node.results}


@dataclass(frozen=True)
class Fold(Pass):
    """Folds the gain as it should; what follows says of it what is not so."""

    name = "fold"
    effect = "rounding"

    def weight(self, rewriter: Rewriter, gain: Program, w: Program) -> Value:
        return rewriter.param("w", Scale(w, 1, gain))

    def run(self, rewriter: Rewriter) -> None:
        v = values(rewriter)
        if "gain" not in v:
            return
        weight = self.weight(rewriter, rewriter.program(v["gain"]), rewriter.program(v["w"]))
        n = rewriter.op.rms_norm(v["x"], eps=0.01)
        y = rewriter.op.einsum(n, weight, equation="btd,fd->btf")
        rewriter.replace(v["y"], y)


@dataclass(frozen=True)
class Exactly(Fold):
    name = "exactly"
    effect = "exact"


@dataclass(frozen=True)
class Losing(Fold):
    """The gain is gone."""

    name = "losing"

    def weight(self, rewriter: Rewriter, gain: Program, w: Program) -> Value:
        return rewriter.param("w", Rotate(w, 0))


@dataclass(frozen=True)
class LosingRows(Fold):
    """Some rows of the weight are scaled twice, and others are gone."""

    name = "losing-rows"

    def weight(self, rewriter: Rewriter, gain: Program, w: Program) -> Value:
        part = Slice(Scale(w, 1, gain), 0, Dim.of(0), Dim(8, 5))
        rest = Slice(Scale(w, 1, gain), 0, Dim.of(0), Dim(8, 6))
        return rewriter.param("w", Concat((part, rest), 0))


@dataclass(frozen=True)
class Twice(Fold):
    """A weight is held scaled, and as it was as well."""

    name = "twice"

    def weight(self, rewriter: Rewriter, gain: Program, w: Program) -> Value:
        plain = rewriter.param("plain", w)
        scaled = rewriter.param("w_2", Scale(w, 1, gain))
        zero = rewriter.op.scale(plain, factor=0.0)
        return rewriter.op.add(scaled, zero)


@dataclass(frozen=True)
class OffsetForgotten(Fold):
    """The gain is taken to be stored less one."""

    name = "offset-forgotten"

    def weight(self, rewriter: Rewriter, gain: Program, w: Program) -> Value:
        return rewriter.param("w", Scale(w, 1, gain, 1.0))


@dataclass(frozen=True)
class TurnedOnOneSide(Fold):
    """The weight is turned, what it multiplies is not."""

    name = "turned-on-one-side"

    def weight(self, rewriter: Rewriter, gain: Program, w: Program) -> Value:
        return rewriter.param("w", Rotate(Scale(w, 1, gain), 1))


def model() -> Model:
    return parse_model(TEXT, REGISTRY.ops)


def test_a_gain_may_be_folded() -> None:
    after, outcome = Runner(REGISTRY.ops).apply(model(), Fold())
    assert outcome.applications == 1
    assert set(after.blocks["b"].params) == {"w"}


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (Exactly(), r'exact pass computes no weights; %w is computed.*scale\(ref\("w"'),
        (Losing(), "a part of gain is no longer read"),
        (LosingRows(), "a part of w is no longer read"),
        (Twice(), "a part of w is held more than once"),
    ],
    ids=lambda x: getattr(x, "name", ""),
)
def test_the_structure_alone_tells(made: Pass, says: str) -> None:
    with pytest.raises(ProofError, match=says):
        Runner(REGISTRY.ops, numeric=False).apply(model(), made)


@pytest.mark.parametrize("made", [OffsetForgotten(), TurnedOnOneSide()], ids=lambda x: x.name)
def test_numbers_tell_the_rest(made: Any) -> None:
    Runner(REGISTRY.ops, numeric=False).apply(model(), made)
    with pytest.raises(ProofError, match="%y differs"):
        Runner(REGISTRY.ops).apply(model(), made)


@dataclass(frozen=True)
class Cut(Pass):
    """Moves what was computed before: rows of the weight trade places, and back again."""

    name = "cut"

    def run(self, rewriter: Rewriter) -> None:
        w = values(rewriter)["w"]
        program = rewriter.program(w)
        if not isinstance(program, Scale):
            return
        first, rest = Dim(4, 3), Dim(12, 8)
        parts = Slice(program, 0, Dim.of(0), first), Slice(program, 0, first, rest)
        rewriter.replace(w, rewriter.param("w", Concat(parts, 0)))


def test_an_exact_pass_may_move_what_is_computed() -> None:
    folded, _ = Runner(REGISTRY.ops).apply(model(), Fold())
    after, outcome = Runner(REGISTRY.ops).apply(folded, Cut())
    assert outcome.applications == 1
    assert isinstance(after.blocks["b"].params["w"].program, Concat)
