"""From a spec to a model: what blocks, parameters, tensors and caches are called."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

import pytest
from archsmith.compiler.components.building.assemble import assemble
from archsmith.compiler.ir.model import Model, verify
from archsmith.compiler.ir.text import print_model
from archsmith.compiler.plugins import Registry
from archsmith.compiler.spec.load import from_tree
from archsmith.compiler.spec.schema import Spec
from hypothesis import given, settings
from strategies import Tree, specs

REGISTRY = Registry.installed()

LATENT = {
    "kind": "mla",
    "heads": 3,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 7,
    "norm": "rms",
    "rope": {"theta": 500.0, "interleaved": True},
}
MOE = {
    "kind": "moe",
    "experts": 6,
    "top_k": 2,
    "width": 9,
    "router": {"score": "sigmoid", "normalize": True, "selection_bias": True},
}
SPEC: Tree = {
    "archsmith": 1,
    "name": "named",
    "dtype": "bfloat16",
    "vocab_size": 97,
    "hidden_size": 40,
    "max_positions": 64,
    "layers": [{"repeat": 3, "block": ["dense", "sparse"]}],
    "blocks": {
        "dense": [{"norm": "rms", "use": "attention"}, {"norm": "rms", "use": "mlp"}],
        "sparse": [{"norm": "rms", "use": "latent"}, {"norm": "rms", "use": "experts"}],
    },
    "parts": {
        "rms": {"kind": "rms_norm", "eps": 1e-6},
        "attention": {"kind": "gqa", "heads": 4, "kv_heads": 2, "head_dim": 8, "bias": "qkv"},
        "latent": LATENT,
        "mlp": {"kind": "swiglu", "width": 50},
        "experts": MOE,
    },
    "final_norm": "rms",
    "head": {"tied": True},
}


def built(tree: Tree, **changes: Any) -> Model:
    return assemble(from_tree({**deepcopy(tree), **changes}, REGISTRY.components), REGISTRY.ops)


def tensors(model: Model, block: str) -> dict[str, list[str]]:
    params = model.blocks[block].params
    return {name: [ref.name for ref in p.program.refs()] for name, p in params.items()}


def test_names_are_those_of_llama_and_of_the_components() -> None:
    model = built(SPEC)
    layer = "model.layers.{layer}."
    assert model.schedule == (
        ("embed", 1),
        ("dense", 1),
        ("sparse", 1),
        ("dense", 1),
        ("head", 1),
    )
    assert tensors(model, "embed") == {"embed": ["model.embed_tokens.weight"]}
    assert tensors(model, "head") == {
        "final_norm": ["model.norm.weight"],
        "head": ["model.embed_tokens.weight"],
    }
    assert tensors(model, "dense") == {
        "attention_norm": [layer + "input_layernorm.weight"],
        "q": [layer + "self_attn.q_proj.weight"],
        "q_bias": [layer + "self_attn.q_proj.bias"],
        "k": [layer + "self_attn.k_proj.weight"],
        "k_bias": [layer + "self_attn.k_proj.bias"],
        "v": [layer + "self_attn.v_proj.weight"],
        "v_bias": [layer + "self_attn.v_proj.bias"],
        "o": [layer + "self_attn.o_proj.weight"],
        "mlp_norm": [layer + "post_attention_layernorm.weight"],
        "gate": [layer + "mlp.gate_proj.weight"],
        "up": [layer + "mlp.up_proj.weight"],
        "down": [layer + "mlp.down_proj.weight"],
    }
    sparse = tensors(model, "sparse")
    assert sparse["router_bias"] == [layer + "mlp.gate.e_score_correction_bias"]
    assert sparse["experts_gate"] == [layer + "mlp.experts.{expert}.gate_proj.weight"]
    assert sparse["kv_a_norm"] == [layer + "self_attn.kv_a_layernorm.weight"]
    assert model.blocks["sparse"].params["router_bias"].dtype == "float32"


def test_a_family_may_call_them_otherwise() -> None:
    names = {"gqa.q": "h.{layer}.query", "norm.0": "h.{layer}.ln.weight", "head": "out.weight"}
    spec = from_tree({**SPEC, "head": {"tied": False}}, REGISTRY.components)
    model = assemble(spec, REGISTRY.ops, names, ("h.*.mask", "mtp.{layers}.*"))
    dense = tensors(model, "dense")
    assert dense["q"] == ["h.{layer}.query"]
    assert dense["attention_norm"] == ["h.{layer}.ln.weight"]
    assert dense["k"] == ["model.layers.{layer}.self_attn.k_proj.weight"]
    assert tensors(model, "head")["head"] == ["out.weight"]
    assert model.droppable == ("h.*.mask", "mtp.3.*")


def test_values_have_the_names_that_the_component_gives() -> None:
    text = print_model(built(SPEC))
    for name in ("q_nope", "q_rope", "latent", "k_rope", "k_nope", "cos", "sin", "index", "logits"):
        assert re.search(rf"%{name}\b.* = ", text), name
    assert [line.strip() for line in text.splitlines() if line.strip().startswith("# ")] == [
        "# attention",
        "# mlp",
        "# latent",
        "# experts",
    ]


TWICE = {
    "parallel": [{"norm": "rms", "use": ["attention", "attention"]}],
    "in a row": [{"norm": "rms", "use": "attention"}, {"norm": "rms", "use": "attention"}],
    "three": [{"use": ["attention", "attention", "attention"]}],
    "two kinds": [{"norm": "rms", "use": ["attention", "latent"]}, {"use": "mlp"}],
    "experts and mlp": [{"norm": "rms", "use": ["experts", "mlp"]}, {"use": "experts"}],
}


@pytest.mark.parametrize("steps", TWICE.values(), ids=TWICE)
@pytest.mark.parametrize("part", ["attention", "second-attention"])
def test_parts_that_are_used_twice_have_weights_and_caches_of_their_own(
    steps: list[Tree], part: str
) -> None:
    steps = [
        {key: _renamed(value, part) if key == "use" else value for key, value in step.items()}
        for step in steps
    ]
    parts = {**SPEC["parts"], part: SPEC["parts"]["attention"]}
    model = built(SPEC, blocks={"b": steps}, layers=[{"repeat": 2, "block": "b"}], parts=parts)
    block = model.blocks["b"]
    names = [ref.name for param in block.params.values() for ref in param.program.refs()]
    assert len(set(names)) == len(names)
    uses = [use for step in steps for use in _listed(step["use"])]
    attends = sum(use in (part, "latent") for use in uses)
    assert len(block.caches) == 2 * attends
    assert all(re.fullmatch(r"[a-z][a-z0-9_]*", name) for name in block.caches)


def _renamed(use: Any, part: str) -> list[str]:
    return [part if name == "attention" else name for name in _listed(use)]


def _listed(use: Any) -> list[str]:
    return [use] if isinstance(use, str) else list(use)


def test_what_is_not_scheduled_is_not_built() -> None:
    model = built(SPEC, layers=[{"repeat": 2, "block": "sparse"}])
    assert list(model.blocks) == ["embed", "sparse", "head"]
    assert model.schedule == (("embed", 1), ("sparse", 2), ("head", 1))


def test_embeddings_are_scaled_and_logits_bounded_where_asked() -> None:
    model = built(SPEC, embed={"scale": 6.5}, head={"tied": False, "softcap": 30.0})
    text = print_model(model)
    assert "scale(%x_2, factor=6.5)" in text or "scale(%x, factor=6.5)" in text
    assert "softcap(%logits" in text
    assert "cap=30.0" in text
    assert tensors(model, "head")["head"] == ["lm_head.weight"]


@given(specs(REGISTRY))
@settings(max_examples=80)
def test_random_specs_build(spec: Spec) -> None:
    model = assemble(spec, REGISTRY.ops)
    verify(model)
    assert sum(count for _, count in model.schedule) == spec.layer_count + 2
    for block in model.blocks.values():
        (graph,) = block.graphs.values()
        written = [
            node.op.attributes()["cache"]
            for node in graph.nodes()
            if node.op is not None and node.op.stateful
        ]
        assert written == list(block.caches)
        names = [ref.name for param in block.params.values() for ref in param.program.refs()]
        assert len(set(names)) == len(names)
        assert all("{layer}" in name or block.name in ("embed", "head") for name in names)
    assert print_model(assemble(spec, REGISTRY.ops)) == print_model(model)
