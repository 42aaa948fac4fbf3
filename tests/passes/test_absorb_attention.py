"""Absorption of what no component builds."""

from __future__ import annotations

from archsmith.compiler.ir.count import cache_bytes
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.pipeline import Runner
from archsmith.passes.absorb_attention import AbsorbAttention
from archsmith.passes.compress_kv import CompressKv
from hypothesis import given, settings
from hypothesis import strategies as st

from .latent_blocks import Latents

REGISTRY = Registry.installed()


@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_attention_to_latents_however_they_are_spelled(data: st.DataObject) -> None:
    made = Latents(data.draw, REGISTRY.ops)
    model = made.model()
    after, (kept, absorbed) = Runner(REGISTRY.ops).run(model, [CompressKv(), AbsorbAttention()])
    assert (kept.applications, absorbed.applications > 0) == (made.absorbed,) * 2, (
        kept.refusals,
        absorbed.refusals,
    )
    if made.absorbed:
        assert cache_bytes(after) <= (24 + 20 + 16) * 4
        graph = after.blocks["b"].graph("decode")
        (node,) = (n for n in graph.nodes() if n.op is not None and n.op.name == "attend")
        _, k, v, *_ = graph.operands(node)
        assert k.type.row[0].size == v.type.row[0].size == 1
