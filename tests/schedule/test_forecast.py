"""Forecasts, against counts made by hand from what was published of the models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.ir.cost import Cost
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.forecast import Demand, Forecast, forecast
from archsmith.compiler.schedule.plan import Plan
from archsmith.compiler.spec.schema import Draft
from schedule.hand_counts import MODELS

EXAMPLES = Path(__file__).parents[2] / "examples"
CHIPS = ("a100", "h100", "h200", "b200", "mi300x")


def planned(name: str, target: str, pipeline: str | None = None) -> Plan:
    compiler = Compiler.installed(target, numeric=False)
    _, passes = compiler.passes(pipeline)
    model, _ = compiler.rewrite(compiler.build(compiler.load(EXAMPLES / f"{name}.yaml")), passes)
    return compiler.schedule(model)


@pytest.fixture(scope="module")
def plans() -> dict[str, Plan]:
    return {name: planned(name, "h200") for name in MODELS}


@pytest.mark.parametrize("name", MODELS)
def test_published_models_by_hand(name: str, plans: dict[str, Plan]) -> None:
    made, found = MODELS[name], forecast(plans[name], Demand(context=4000))
    assert found.parameters == made.parameters(made.experts)
    assert found.active == made.parameters(made.top_k)
    # A router's bias is float32, and with DeepSeek its weight too.
    wide = made.bias + made.experts * made.hidden * name.startswith("deepseek")
    sparse = made.layers - made.dense
    assert found.weight_bytes == 2 * found.parameters + 2 * wide * sparse
    assert found.cache_bytes == made.layers * made.row * 2
    assert found.cache_best_bytes == found.cache_bytes
    assert found.held_bytes == 4000 * found.cache_bytes
    decode, prefill = found.phases["decode"], found.phases["prefill"]
    assert decode.work.flops == made.flops(4000)
    # A token of a prompt sees half of it, on average and by half a slot more; the logits are those
    # after the last token alone.
    attention = made.layers * 2 * made.ends * (4000 * 4001 // 2)
    logits = 2 * made.vocabulary * made.hidden
    assert prefill.work.flops == 4000 * (made.flops(0) - logits) + logits + attention


@pytest.mark.parametrize(
    ("name", "total", "active"),
    [
        ("deepseek-v2-lite", 15.7e9, 2.66e9),  # arXiv:2405.04434, appendix B: 15.7B and 2.4B
        ("deepseek-v2", 236e9, 21e9),  # its abstract
        ("deepseek-v3", 671e9, 37e9),  # arXiv:2412.19437, abstract
        ("qwen3-30b-a3b", 30.5e9, 3.3e9),  # the model's page
        ("mixtral-8x7b", 46.7e9, 12.9e9),  # the announcement
    ],
)
def test_published_totals(name: str, total: float, active: float, plans: dict[str, Plan]) -> None:
    found = forecast(plans[name])
    assert found.parameters == pytest.approx(total, rel=0.005)
    assert found.active == pytest.approx(active, rel=0.02)


def test_the_cache_that_deepseek_v2_saves(plans: dict[str, Plan]) -> None:
    """arXiv:2405.04434, abstract: 93.3 % less than DeepSeek 67B, with numbers of 6 bits; by its
    latent attention alone it is 82.2 %."""
    before = forecast(plans["deepseek-67b"])
    latent = forecast(plans["deepseek-v2"])
    narrow = forecast(plans["deepseek-v2"], Demand(cache_bits=6))
    assert 1 - latent.cache_bytes / before.cache_bytes == pytest.approx(0.822, abs=5e-4)
    assert 1 - narrow.cache_bytes / before.cache_bytes == pytest.approx(0.933, abs=5e-4)
    assert narrow.cache_bytes == latent.cache_bytes * 6 / 16 == 60 * 576 * 2 * 6 / 16


def test_the_layer_that_deepseek_v3_drafts_with(plans: dict[str, Plan]) -> None:
    """Its page has 685B parameters: 671B, and 14B of a layer, of which the embedding and the head
    are copies, here not held twice."""
    compiler, made = Compiler.installed("h200", numeric=False), MODELS["deepseek-v3"]
    spec = compiler.load(EXAMPLES / "deepseek-v3.yaml")
    spec = spec.model_copy(update={"mtp": Draft(block="sparse", norm="rms")})
    model, _ = compiler.rewrite(compiler.build(spec), compiler.passes(None)[1])
    plain, found = forecast(plans["deepseek-v3"]), forecast(compiler.schedule(model))
    experts = made.experts * made.hidden + made.bias + (made.experts + 1) * made.expert
    layer = made.attention + made.gains + experts + 2 * made.hidden**2 + 3 * made.hidden
    assert found.parameters == plain.parameters + layer
    assert found.parameters + 2 * made.vocabulary * made.hidden == pytest.approx(684.5e9, rel=1e-3)
    assert found.weight_bytes == plain.weight_bytes + 2 * layer + 2 * (
        made.experts * made.hidden + made.bias
    )
    # A call decodes as without it.
    assert (found.active, found.cache_bytes) == (plain.active, plain.cache_bytes)
    for name, phase in found.phases.items():
        assert phase.work.flops == plain.phases[name].work.flops
        assert phase.launches == plain.phases[name].launches


def test_without_compression_the_best_is_told_beside_what_is_held() -> None:
    found = forecast(planned("deepseek-v2", "h200", "O1"))
    assert found.cache_bytes == 60 * 128 * 320 * 2
    assert found.cache_best_bytes == 60 * 576 * 2


@pytest.mark.parametrize("target", CHIPS)
@pytest.mark.parametrize("name", MODELS)
def test_no_kernels_beat_the_best_kernels(
    name: str, target: str, plans: dict[str, Plan], registry: Registry
) -> None:
    plan = replace(plans[name], target=registry.targets[target])
    for demand in (Demand(1, 1), Demand(1, 512), Demand(64, 2048)):
        for phase in forecast(plan, demand).phases.values():
            assert phase.ideal is not None
            assert phase.seconds is not None
            assert 0 < phase.ideal.seconds < phase.seconds
            assert sum(phase.spent.values()) == pytest.approx(phase.seconds, rel=1e-12)
            assert phase.tokens_per_second == phase.tokens / phase.seconds


def test_a_phase_is_the_sum_of_its_lines(plans: dict[str, Plan]) -> None:
    phase = forecast(plans["deepseek-v3"]).phases["decode"]
    total, launches = Cost(), 0
    for line in phase.lines:
        assert line.times in (1, 3, 58)
        total = total + line.work * line.times
        launches += line.cost.launches * line.times
        # No kernel takes less than its op must.
        assert line.cost.flops >= line.work.flops
        assert line.cost.bytes >= line.work.bytes
    assert (phase.work.flops, phase.launches) == (total.flops, launches)
    assert phase.work.bytes == pytest.approx(total.bytes, rel=1e-12)
    # A view is no kernel, and all else is one or more.
    views = {line.op for line in phase.lines if line.cost.launches == 0}
    assert views == {line.op for line in phase.lines if line.work.bytes == 0}
    assert {"split", "unflatten"} <= views
    # What all layers share is there once; a layer's own ops as often as there are layers.
    assert [line.times for line in phase.lines if line.op == "rotations"] == [1]
    assert sum(line.times for line in phase.lines if line.op == "attend") == 61
    routed = next(line for line in phase.lines if "experts" in line.op)
    assert (routed.block, routed.times) == ("sparse", 58)
    # 8 of 256 experts are read, and the one that all tokens use, in bfloat16.
    assert routed.work.bytes == pytest.approx(9 * 3 * 7168 * 2048 * 2, rel=1e-3)


def test_a_decode_step_is_held_back_by_memory_and_a_long_prompt_by_arithmetic(
    plans: dict[str, Plan],
) -> None:
    found = forecast(plans["llama-3-8b"], Demand(1, 8192))
    decode, prefill = found.phases["decode"], found.phases["prefill"]
    assert decode.ideal is not None
    assert prefill.ideal is not None
    assert (decode.ideal.bound, prefill.ideal.bound) == ("memory", "compute")
    # All weights but the table, and the cache, at 4.8 TB/s.
    moved = found.weight_bytes - 128256 * 4096 * 2 + 8192 * found.cache_bytes
    assert decode.ideal.seconds == pytest.approx(moved / 4.8e12, rel=1e-12)
    assert prefill.ideal.seconds == pytest.approx(prefill.work.flops / 989.4e12, rel=1e-12)


def test_a_head_that_is_the_embedding_is_read_and_held_once(tmp_path: Path) -> None:
    page = (EXAMPLES / "llama-3-8b.yaml").read_text(encoding="utf-8")
    (tmp_path / "tied.yaml").write_text(page.replace("tied: false", "tied: true"))
    compiler = Compiler.installed("h200", numeric=False)
    model = compiler.build(compiler.load(tmp_path / "tied.yaml"))
    tied = forecast(compiler.schedule(model))
    apart = forecast(planned("llama-3-8b", "h200"))
    table = 128256 * 4096
    assert apart.parameters - tied.parameters == apart.active - tied.active == table
    assert apart.weight_bytes - tied.weight_bytes == 2 * table
    for phase in ("prefill", "decode"):
        assert apart.phases[phase].ideal == tied.phases[phase].ideal is not None


def test_more_rows_share_the_weights(plans: dict[str, Plan]) -> None:
    one, many = (forecast(plans["mixtral-8x7b"], Demand(n, 1024)) for n in (1, 64))
    assert many.held_bytes == 64 * one.held_bytes
    rates = [f.phases["decode"].tokens_per_second or 0 for f in (one, many)]
    # A row alone reads 2 of 8 experts; 64 rows read all of them, and the rest once.
    assert 8 < rates[1] / rates[0] < 64
    assert one.phases["decode"].work.flops * 64 == many.phases["decode"].work.flops


@pytest.mark.parametrize(
    ("name", "target", "fits"),
    [
        ("llama-3-8b", "a100", True),
        ("mixtral-8x7b", "a100", False),  # 93.4 GB of weights
        ("mixtral-8x7b", "h200", True),
        ("deepseek-v3", "mi300x", False),
        ("llama-3-8b", "cpu", None),
    ],
)
def test_what_fits(name: str, target: str, fits: bool | None) -> None:
    assert forecast(planned(name, target)).fits is fits


def test_the_cache_counts_towards_what_fits(plans: dict[str, Plan]) -> None:
    weights = forecast(plans["llama-3-8b"]).weight_bytes
    row = 8192 * 131072
    most = int((141e9 - weights) // row)
    fits = [forecast(plans["llama-3-8b"], Demand(n, 8192)).fits for n in (most, most + 1)]
    assert fits == [True, False]


def test_a_window_is_held_and_no_more() -> None:
    found = forecast(planned("tiny-mixtral", "cpu"), Demand(3, 200))
    window = 48
    assert found.cache_bytes == 0
    assert found.held_bytes == 3 * window * 3 * 2 * 3 * 12 * 4
    short = forecast(planned("tiny-mixtral", "cpu"), Demand(3, 10))
    assert short.held_bytes * window == found.held_bytes * 10


def silent(found: Forecast) -> None:
    for phase in found.phases.values():
        assert (phase.seconds, phase.tokens_per_second, phase.ideal) == (None, None, None)
        assert phase.work.flops > 0


def test_a_target_that_states_nothing() -> None:
    found = forecast(planned("tiny-llama", "cpu"))
    silent(found)
    assert found.json()["phases"]["decode"]["seconds"] is None


def test_a_target_that_states_no_peak_for_a_dtype(plans: dict[str, Plan]) -> None:
    plan = plans["llama-3-8b"]
    target = replace(plan.target, peak={"float32": 1e12})
    silent(forecast(replace(plan, target=target)))
