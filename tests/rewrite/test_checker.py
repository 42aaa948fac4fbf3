"""The checker: every bug that a pass may have is found, and what is right is never called wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
from archsmith.compiler.components.building.assemble import assemble
from archsmith.compiler.ir.model import Model
from archsmith.compiler.ir.parse import parse_model
from archsmith.compiler.ir.text import print_model
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.passes import Lossy, ModelPass, Pass
from archsmith.compiler.rewrite.pipeline import PassFailed, Runner
from archsmith.compiler.rewrite.rewriter import ModelRewriter, Rewriter
from archsmith.compiler.spec.load import loads

from .attention_bugs import ATTENTION, rotate_what_is_cached
from .mutant import Change, Mutant
from .network_bugs import NETWORK
from .phase_bugs import PHASES
from .structure_bugs import STRUCTURE

REGISTRY = Registry.installed()
MUTANTS = (*ATTENTION, *NETWORK, *STRUCTURE, *PHASES)

SPEC = """\
archsmith: 1
name: checked
dtype: bfloat16
vocab_size: 97
hidden_size: 40
max_positions: 512
layers: [{repeat: 1, block: gqa}, {repeat: 1, block: mla}]
blocks:
  gqa: [{norm: rms, use: attention}, {norm: rms, use: mlp}]
  mla: [{norm: rms, use: latent}, {norm: rms, use: experts}]
parts:
  rms: {kind: rms_norm, eps: 1.0e-5}
  attention: {kind: gqa, heads: 6, kv_heads: 3, head_dim: 8, qk_norm: rms, bias: all, sinks: true,
              window: 3, softcap: 2.0, rope: {theta: 10000, interleaved: false}}
  mlp: {kind: swiglu, width: 50}
  latent: {kind: mla, heads: 4, kv_lora_rank: 12, qk_nope_head_dim: 10, qk_rope_head_dim: 6,
           v_head_dim: 7, norm: rms, rope: {theta: 500, interleaved: true}}
  experts: {kind: moe, experts: 8, top_k: 3, width: 9, shared: 1, router: {score: sigmoid,
            selection_bias: true, groups: 4, top_groups: 2, group_score: top2_sum,
            normalize: true, scale: 2.5}}
final_norm: rms
head: {tied: false}
"""

SQUARE = """\
block square
  param %square = ref("square", (8~3, 8~3)) : float32[8~3, 8~3]
  graph train, prefill, decode
    %x = input : float32[B, T, 8~3]
    %positions = input : int64[B, T]
    %y = einsum(%x, %square, equation="btd,fd->btf") : float32[B, T, 8~3]
    return %y
"""


@dataclass(frozen=True)
class Wrong(Pass):
    """A pass with a bug."""

    change: Change

    def run(self, rewriter: Rewriter) -> None:
        self.change(rewriter)


def wrong(mutant: Mutant) -> Pass:
    made = type(str(mutant), (Wrong,), {"name": str(mutant), "phases": mutant.phases})
    return made(mutant.change)


def checked() -> Model:
    return assemble(loads(SPEC, "checked.yaml", REGISTRY.components), REGISTRY.ops)


def parsed(text: str) -> Model:
    return parse_model(text, REGISTRY.ops)


@pytest.fixture(scope="module")
def model() -> Model:
    return checked()


@pytest.mark.parametrize("mutant", MUTANTS, ids=str)
def test_a_bug_is_found_and_named(mutant: Mutant, model: Model) -> None:
    square = str(mutant) == "transpose-a-square"
    given = parsed(SQUARE) if square else model
    before = print_model(given)
    with pytest.raises(PassFailed, match=f"^pass {mutant}: .*(?:{mutant.says})") as failed:
        Runner(REGISTRY.ops).apply(given, wrong(mutant))
    assert failed.value.name == str(mutant)
    assert print_model(given) == print_model(failed.value.before) == before


def test_the_law_of_caches_is_no_bug(model: Model) -> None:
    """f(cached(x), cached(y)) = cached(f(x, y)): rotating the context by cached angles is right."""
    mutant = Mutant(rotate_what_is_cached, "")
    after, outcome = Runner(REGISTRY.ops).apply(model, wrong(mutant))
    assert outcome.applications == 1
    assert "cos_rows" in print_model(after)


def test_the_first_value_that_differs_is_the_one_named(model: Model) -> None:
    """It is the result of the op that is wrong, not what is computed from it."""
    (mutant,) = (m for m in MUTANTS if str(m) == "another-gain")
    with pytest.raises(PassFailed, match=r"block gqa, value %cos differs by .* in train"):
        Runner(REGISTRY.ops).apply(model, wrong(mutant))


def test_structure_is_checked_even_without_numbers(model: Model) -> None:
    structure = {
        "hold-a-weight-twice": "is held more than once",
        "write-another-cache-in-this-phase": "block gqa is broken: .*writes caches",
        "return-one-value-more": "returns|given",
    }
    for name, says in structure.items():
        (mutant,) = (m for m in MUTANTS if str(m) == name)
        with pytest.raises(PassFailed, match=says):
            Runner(REGISTRY.ops, numeric=False).apply(model, wrong(mutant))


class AddTwice(ModelPass):
    """The embedding is added once more."""

    name = "add-twice"

    def run(self, rewriter: ModelRewriter) -> None:
        for embed in rewriter.of("embed"):
            (x,) = embed.graph.outputs
            embed.returns(embed.op.add(x, x))


class LoseTheNorm(ModelPass):
    name = "lose-the-norm"

    def run(self, rewriter: ModelRewriter) -> None:
        for head in rewriter.of("head"):
            for node in list(head.graph.nodes()):
                if node.op is not None and node.op.name == "rms_norm":
                    head.replace(node.results[0], head.graph.operands(node)[0])


class HalfAPair(ModelPass):
    """The layers return two values, and nobody takes the second."""

    name = "half-a-pair"

    def run(self, rewriter: ModelRewriter) -> None:
        for layer in rewriter.layers():
            (out,) = layer.graph.outputs
            layer.returns(out, out)


@pytest.mark.parametrize(
    ("made", "says"),
    [
        (AddTwice(), "value %.* differs by|what it returns"),
        (LoseTheNorm(), "model.norm.weight is no longer read"),
        (HalfAPair(), "block mla takes .*, but is given"),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_a_bug_of_the_whole_model_is_found(made: ModelPass, says: str, model: Model) -> None:
    with pytest.raises(PassFailed, match=f"^pass {made.name}: .*(?:{says})"):
        Runner(REGISTRY.ops).apply(model, made)


@dataclass(frozen=True)
class Rounded(Pass):
    name = "rounded"
    effect: ClassVar[Lossy] = Lossy("perplexity", 0.02)

    def run(self, rewriter: Rewriter) -> None: ...


def test_a_lossy_pass_is_not_judged_without_weights(model: Model) -> None:
    with pytest.raises(Exception, match="pass rounded is lossy"):
        Runner(REGISTRY.ops).apply(model, Rounded())
