"""What the checker would miss without one of its scenarios, its tolerance, its hold on phases."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.errors import ProofError
from archsmith.compiler.ir.model import Model
from archsmith.compiler.ir.parse import parse_model
from archsmith.compiler.rewrite import check
from archsmith.compiler.rewrite.pipeline import PassFailed, Runner
from archsmith.compiler.rewrite.twin import Twin, scenarios

from .phase_bugs import ALONE, PHASES
from .test_checker import MUTANTS, REGISTRY, checked, wrong
from .text_graphs import graph
from .wrong_ops import (
    AttendToTheCall,
    CountUp,
    OfTheFirstRow,
    ReadThenWrite,
    ShiftTokens,
    Slip,
    WriteFromTheStart,
    WriteTheLast,
)

OPS = {
    **REGISTRY.ops,
    **{
        op.name: op
        for op in (
            *(AttendToTheCall, CountUp, OfTheFirstRow, ReadThenWrite, ShiftTokens, Slip),
            *(WriteFromTheStart, WriteTheLast),
        )
    },
}


@pytest.fixture(scope="module")
def model() -> Model:
    return checked()


def test_every_scenario_sees_what_no_other_does() -> None:
    assert {name for name, _ in ALONE} == {scenario.name for scenario in scenarios()}
    assert {mutant for _, mutant in ALONE} < set(PHASES)


@pytest.mark.parametrize(("name", "mutant"), ALONE, ids=str)
def test_without_its_scenario_a_bug_is_not_found(
    name: str, mutant: Any, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    rest = [scenario for scenario in scenarios() if scenario.name != name]
    monkeypatch.setattr(check, "scenarios", lambda: iter(rest))
    _, outcome = Runner(REGISTRY.ops).apply(model, wrong(mutant))
    assert outcome.applications > 0
    only = [scenario for scenario in scenarios() if scenario.name == name]
    monkeypatch.setattr(check, "scenarios", lambda: iter(only))
    with pytest.raises(PassFailed, match=f"differs by .* in {name}"):
        Runner(REGISTRY.ops).apply(model, wrong(mutant))


COARSE = ("scale-off-by-a-thousandth", "another-eps", "round-attend-to-float32")


@pytest.mark.parametrize("name", COARSE)
def test_a_coarse_tolerance_lets_bugs_through(
    name: str, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    mutant = next(m for m in MUTANTS if str(m) == name)
    with pytest.raises(PassFailed, match="differs by"):
        Runner(REGISTRY.ops).apply(model, wrong(mutant))
    monkeypatch.setattr(check, "TOLERANCE", 1e-1)
    _, outcome = Runner(REGISTRY.ops).apply(model, wrong(mutant))
    assert 1e-9 < outcome.error < 1e-1


# A component that is wrong from the start: nothing is before it that it could be compared with.

TOKENS_OF_BEFORE = ("%y = shift_tokens(%x) : X", "return %y")


def attention(
    turned: str = "%positions",
    written: str = "%positions",
    cached: str = "cached",
    attend: str = "attend",
) -> Model:
    """Attention with a rotated key, some of which a component gets wrong."""
    heads = "float32[B, {}, 1, 8~6]"
    lines = (
        "%first = of_the_first_row(%positions) : int64[B, T]",
        "%count = count_up(%positions) : int64[B, T]",
        "%h = unflatten(%x, sizes=(1, 8~6)) : " + heads.format("T"),
        f'%cos, %sin = rotations({turned}, width=8~6, theta=50.0, dtype="float32")'
        " : float32[B, T, 4~3], float32[B, T, 4~3]",
        "%q = rope(%h, %cos, %sin, interleaved=false) : " + heads.format("T"),
        f'%k = {cached}(%q, {written}, cache="k") : ' + heads.format("S"),
        '%v = cached(%h, %positions, cache="v") : ' + heads.format("S"),
        f"%out = {attend}(%q, %k, %v, %positions, scale=0.5) : " + heads.format("T"),
        "%y = flatten(%out) : X",
        "return %y",
    )
    text = graph(*lines).replace("8~3]", "8~6]")
    caches = "".join(f"  cache {name} : {heads.format('S')}\n" for name in "kv")
    return parse_model(text.replace("  graph", caches + "  graph", 1), OPS)


def test_a_component_that_caches_rightly_is_right() -> None:
    (block,) = attention().blocks.values()
    proof = check.prove_phases(Twin.of_block(block))
    assert (proof.trials, proof.error < 1e-12) == (14, True)
    Runner(OPS).run(attention(), [])


@pytest.mark.parametrize(
    ("wrong", "where"),
    [
        ({"turned": "%count"}, "chunked prefill"),
        ({"turned": "%first"}, "ragged"),
        ({"written": "%count"}, "chunked prefill"),
        ({"written": "%first"}, "ragged"),
        ({"cached": "read_then_write"}, "prefill"),
        ({"cached": "write_from_the_start"}, "chunked prefill"),
        ({"cached": "write_the_last"}, "chunked prefill"),
        ({"attend": "attend_to_the_call"}, "chunked prefill"),
    ],
    ids=str,
)
def test_a_component_that_caches_wrongly_is_found(wrong: dict[str, str], where: str) -> None:
    says = f"block b, what it returns, differs by .* in {where} from one full pass"
    with pytest.raises(ProofError, match=says):
        Runner(OPS).run(attention(**wrong), [])


def test_a_component_that_forgets_the_tokens_before_is_found() -> None:
    text = graph(*TOKENS_OF_BEFORE)
    with pytest.raises(ProofError, match="in chunked prefill from one full pass"):
        Runner(OPS).run(parse_model(text, OPS), [])


def test_phases_of_graphs_of_their_own_may_differ() -> None:
    text = graph("%y = softcap(%x, cap=2.0) : X", "return %y").replace("train, prefill", "prefill")
    text += (
        "  graph train\n" + "\n".join(text.splitlines()[2:]).replace("cap=2.0", "cap=3.0") + "\n"
    )
    Runner(OPS).run(parse_model(text, OPS), [])


def test_the_layer_of_a_twin_is_not_the_first(model: Model) -> None:
    """A pass that reads the first layer's tensors in all layers is seen."""
    assert all(layer > 0 for _, layer in Twin.of_block(model.blocks["gqa"]).runs)


@pytest.mark.parametrize("example", ["deepseek-v2", "deepseek-v3", "qwen3-30b-a3b", "mixtral-8x7b"])
def test_every_expert_of_a_twin_is_read(example: str, root: Path) -> None:
    """So a weight in the place of another is seen, whichever expert it is of."""
    compiler = Compiler.installed()
    built = compiler.build(compiler.load(root / "examples" / f"{example}.yaml"))
    for block in built.blocks.values():
        routes = [
            n for n in block.graph("train").nodes() if n.op is not None and n.op.name == "route"
        ]
        for node in routes:
            twin, full = Twin.of_block(block), next(scenarios())
            ((values,),) = twin.trace(full, twin.inputs())
            experts = block.graph("train").operands(node)[0].type.sizes("probe", B=1, T=1)[-1]
            assert set(values[node.results[0].name].ravel()) == set(range(experts))
