"""What holds of every pass that is installed, a third party's included, on random models."""

from __future__ import annotations

import pytest
from archsmith.compiler.ir.model import Model, verify
from archsmith.compiler.ir.parse import parse_model
from archsmith.compiler.ir.text import print_model
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.check import prove_model
from archsmith.compiler.rewrite.passes import Lossy, ModelPass
from archsmith.compiler.rewrite.pipeline import AnyPass, Outcome, Runner
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import grown

REGISTRY = Registry.installed()
PASSES = [name for name, p in REGISTRY.passes.items() if not isinstance(p.effect, Lossy)]
UNPROVED = Runner(REGISTRY.ops, numeric=False)  # what it would prove is proved here


def made(name: str) -> AnyPass:
    return REGISTRY.passes[name]()


def said(outcome: Outcome) -> tuple[object, ...]:
    return outcome.name, outcome.applications, outcome.refusals


@pytest.mark.parametrize("name", PASSES)
@given(model=grown(REGISTRY))
@settings(max_examples=8)
def test_a_pass_keeps_its_promises(name: str, model: Model) -> None:
    before = print_model(model)
    after, outcome = UNPROVED.apply(model, made(name))
    text = print_model(after)
    assert print_model(model) == before
    assert (outcome.applications == 0) == (text == before)
    assert all(refusal.reason and refusal.node for refusal in outcome.refusals)

    verify(after)
    if outcome.applications and outcome.effect in ("exact", "rounding"):
        proof = prove_model(model, after, seed=7)
        assert proof.trials > 0
    if not issubclass(REGISTRY.passes[name], ModelPass):
        for block, other in zip(model.blocks.values(), after.blocks.values(), strict=True):
            (old, new) = (next(iter(b.graphs.values())) for b in (block, other))
            assert old.inputs == new.inputs
            assert [v.type for v in old.outputs] == [v.type for v in new.outputs]

    again, second = UNPROVED.apply(after, made(name))
    assert (second.applications, print_model(again)) == (0, text)

    read = parse_model(before, REGISTRY.ops)
    third, same = UNPROVED.apply(read, made(name))
    assert (said(same), print_model(third)) == (said(outcome), text)


@given(model=grown(REGISTRY), order=st.permutations(PASSES))
@settings(max_examples=8)
def test_passes_may_run_in_any_order(model: Model, order: list[str]) -> None:
    after, outcomes = Runner(REGISTRY.ops).run(model, [made(name) for name in order])
    verify(after)
    assert [outcome.name for outcome in outcomes] == order
