"""Absorption: attention that no component builds, published models, and what targets decide."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.ir.count import cache_bytes
from archsmith.compiler.ir.graph import Graph, Value
from archsmith.compiler.ir.model import Model
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.pipeline import Runner
from archsmith.passes.absorb_attention import AbsorbAttention
from archsmith.passes.compress_kv import CompressKv
from hypothesis import given, settings
from hypothesis import strategies as st

from .latent_blocks import LATENTS, TURNED, Latents

EXAMPLES = Path(__file__).parents[2] / "examples"
REGISTRY = Registry.installed()
BOTH = [CompressKv(), AbsorbAttention()]


def read(graph: Graph) -> tuple[Value, Value]:
    """The key and the value of the one attention of a graph."""
    (node,) = (n for n in graph.nodes() if n.op is not None and n.op.name == "attend")
    _, k, v, *_ = graph.operands(node)
    return k, v


@given(data=st.data(), target=st.sampled_from(["cpu", "h200", "mi300x"]))
@settings(max_examples=20, deadline=None)
def test_latents_however_they_are_spelled(data: st.DataObject, target: str) -> None:
    """What can be absorbed is kept as its latents and absorbed; what cannot stays as it was."""
    made = Latents(data.draw, REGISTRY.ops)
    model = made.model()
    runner = Runner(REGISTRY.ops, target=REGISTRY.targets[target])
    after, (kept, absorbed) = runner.run(model, BOTH)
    reasons = [refusal.reason for refusal in (*kept.refusals, *absorbed.refusals)]
    assert kept.applications == made.absorbed, reasons
    assert (absorbed.applications > 0) == made.absorbed, reasons
    if not made.absorbed:
        assert any("a bias of %" in reason for reason in reasons)
        return
    assert cache_bytes(after) <= 4 * sum(dim.size for dim in (*LATENTS, TURNED))
    block = after.blocks["b"]
    for value in read(block.graph("decode")):
        assert value.type.row[0].size == 1
    assert read(block.graph("train"))[0].type.row[0].size == 8
    _, again = Runner(REGISTRY.ops, target=runner.target, numeric=False).run(after, BOTH)
    assert [outcome.applications for outcome in again] == [0, 0]


@pytest.mark.parametrize("target", ["a100", "h100", "h200", "b200", "mi300x", "cpu"])
@pytest.mark.parametrize("name", ["deepseek-v2-lite", "deepseek-v3"])
def test_prefill_of_published_models_stays_as_it_is(name: str, target: str) -> None:
    compiler = Compiler.installed(target, numeric=False)
    model = compiler.build(compiler.load(EXAMPLES / f"{name}.yaml"))
    after, (_, absorbed) = compiler.rewrite(model, BOTH)
    assert absorbed.applications == 2
    heads = {"deepseek-v2-lite": 16, "deepseek-v3": 128}[name]
    for block in (after.blocks["dense"], after.blocks["sparse"]):
        assert [v.type.row[0].size for v in read(block.graph("prefill"))] == [heads, heads]
        assert [v.type.row[-1].size for v in read(block.graph("decode"))] == [576, 512]
        assert [v.type.row[0].size for v in read(block.graph("decode"))] == [1, 1]
    unit = r"kB and [0-9,.]+ MFLOPs" if target == "cpu" else "us"
    reasons = {refusal.reason for refusal in absorbed.refusals}
    assert len(reasons) == 1
    told = re.fullmatch(
        rf"prefill takes ([0-9,.]+) {unit} as it is, and ([0-9,.]+) {unit} absorbed", *reasons
    )
    assert told is not None
    was, now = (float(figure.replace(",", "")) for figure in told.groups())
    assert was < now


def latent(tmp_path: Path, rank: int, **fields: int) -> Model:
    """V2-Lite with another latent."""
    page = (EXAMPLES / "deepseek-v2-lite.yaml").read_text()
    page = page.replace("kv_lora_rank: 512", f"kv_lora_rank: {rank}")
    for name, value in fields.items():
        page = re.sub(rf"{name}: \d+", f"{name}: {value}", page)
    (tmp_path / "narrow.yaml").write_text(page.replace("checkpoint: deepseek_v2", ""))
    compiler = Compiler.installed(numeric=False)
    return compiler.build(compiler.load(tmp_path / "narrow.yaml"))


@pytest.mark.parametrize("target", ["h200", "cpu"])
def test_a_latent_narrower_than_keys_is_absorbed_in_prefill_too(
    tmp_path: Path, target: str
) -> None:
    model = latent(tmp_path, 64)
    compiler = Compiler.installed(target, numeric=False)
    after, (_, absorbed) = compiler.rewrite(model, BOTH)
    assert (absorbed.applications, absorbed.refusals) == (4, ())
    block = after.blocks["sparse"]
    assert set(block.graphs) == {("train",), ("prefill", "decode")}
    assert [v.type.row[-1].size for v in read(block.graph("prefill"))] == [128, 64]


def test_what_is_said_of_each_change() -> None:
    compiler = Compiler.installed("h200", numeric=False)
    model = compiler.build(compiler.load(EXAMPLES / "deepseek-v3.yaml"))
    _, (kept, absorbed) = compiler.rewrite(model, BOTH)
    assert [remark.text for remark in absorbed.remarks] == [
        "128 heads attend to one key of 576 numbers a slot"
    ] * 2
    assert [remark.text.partition(":")[0] for remark in kept.remarks] == [
        "1152 bytes a token are kept of 81920"
    ] * 2


@pytest.mark.parametrize(
    "attention",
    [
        "{kind: gqa, heads: 8, kv_heads: 4, head_dim: 20, bias: all}",
        "{kind: gqa, heads: 4, kv_heads: 4, head_dim: 20, sinks: true, softcap: 3.0}",
    ],
)
def test_a_package_of_absorbed_groups_is_proved(tmp_path: Path, attention: str) -> None:
    """Without positions keys and values are made of the block's input, whose row is kept."""
    page = (EXAMPLES / "tiny-llama.yaml").read_text().replace("checkpoint: llama", "")
    page = re.sub(r"attention: \{.*?\}\}\}", f"attention: {attention}", page, flags=re.S)
    (tmp_path / "plain.yaml").write_text(page)
    compiler = Compiler.installed()
    name, passes = compiler.passes("O2")
    spec = compiler.load(tmp_path / "plain.yaml")
    report = compiler.package(spec, tmp_path / "package", name, passes)
    assert report.proof is not None
    assert report.cache_bytes_per_token == 3 * 72 * 4


def test_a_package_that_absorbs_in_prefill_too_is_proved(tmp_path: Path) -> None:
    page = (EXAMPLES / "tiny-deepseek-v2.yaml").read_text()
    page = page.replace("kv_lora_rank: 32", "kv_lora_rank: 6").replace(
        "checkpoint: deepseek_v2", ""
    )
    (tmp_path / "narrow.yaml").write_text(page)
    compiler = Compiler.installed()
    name, passes = compiler.passes("O2")
    spec = compiler.load(tmp_path / "narrow.yaml")
    report = compiler.package(spec, tmp_path / "package", name, passes)
    assert report.proof is not None
    text = (tmp_path / "package" / "model.py").read_text()
    assert "def _prefill(" in text
    assert "def _decode(" not in text  # it is the same
