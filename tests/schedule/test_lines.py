"""The ops of a training call: what they are, and which gradients are wanted of them."""

from __future__ import annotations

from pathlib import Path

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ops.linear import Einsum
from archsmith.compiler.ops.loss import LinearCrossEntropy
from archsmith.compiler.schedule.lines import Line, lines, wanted
from archsmith.compiler.schedule.plan import Plan

EXAMPLES = Path(__file__).parents[2] / "examples"
SIZES = Sizes(2, 9, 9)


@pytest.fixture(scope="module")
def plan() -> Plan:
    compiler = Compiler.installed("h200", numeric=False)
    _, passes = compiler.passes("O2")
    spec = compiler.load(EXAMPLES / "tiny-deepseek-v3.yaml")
    return compiler.schedule(compiler.rewrite(compiler.build(spec), passes)[0])


def of(plan: Plan, line: Line) -> tuple[str, ...]:
    return wanted(plan.blocks[line.block].graph("train"))[line.node]


def test_a_call_ends_with_its_loss(plan: Plan) -> None:
    *_, last = lines(plan, "train", SIZES)
    assert isinstance(last.choice.op, LinearCrossEntropy)
    assert (last.block, last.times, last.sizes) == ("loss", 1, SIZES)
    assert of(plan, last) == ("x", "weight")
    assert last.work.flops == 2 * 2 * 9 * 80 * 337
    *_, logits = lines(plan, "prefill", SIZES)
    assert (logits.block, logits.op, logits.sizes) == ("head", "einsum", Sizes(2, 1, 9))


def test_logits_of_a_head_that_has_no_loss_are_all_wanted(plan: Plan) -> None:
    *_, last = lines(Plan(plan.model, plan.target, plan.choices), "train", SIZES)
    assert (last.block, last.sizes) == ("head", SIZES)
    assert isinstance(last.choice.op, Einsum)


def test_gradients_are_wanted_of_what_is_learnt(plan: Plan) -> None:
    """Neither of what is made of positions, nor of a bias that levels experts."""
    found = {line.op: (of(plan, line), line) for line in lines(plan, "train", SIZES)}
    assert found["embed"][0] == ("weight",)
    assert found["rotations"][0] == ()
    assert found["rope"][0] == ("x",)
    assert found["attend"][0] == ("q", "k", "v")
    assert found["fused_experts"][0] == ("x", "weight", "gate_up", "down")
    names, routed = found["router"]
    assert names == ("x", "weight")
    assert routed.choice.op.named(len(routed.choice.operands)) == ("x", "weight", "bias")
    assert found["add_rms_norm"][0] == ("x", "residual", "weight")
