"""Hypothesis strategies: random specs, and random well-typed models of every op."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from archsmith.compiler.components.building.assemble import assemble
from archsmith.compiler.ir.model import Model
from archsmith.compiler.plugins import Registry
from archsmith.compiler.spec.load import from_tree
from archsmith.compiler.spec.packed import Packed
from archsmith.compiler.spec.schema import Spec
from growth import Growth
from hypothesis import strategies as st

Tree = dict[str, Any]

DTYPES = ("bfloat16", "float16", "float32", "float64")
ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")
FACTOR = st.sampled_from([0.5, 1.25, 3.0])
GATE: st.SearchStrategy[Tree] = st.just({}) | st.fixed_dictionaries(
    {}, optional={"clamp": FACTOR, "alpha": FACTOR, "up_offset": st.sampled_from([0.5, 1.0])}
)
FLAG = st.booleans()
EXPERTS = "model.layers.{layer}.mlp.experts"
PACKED = {
    f"{EXPERTS}.{{expert}}.gate_proj.weight": Packed(f"{EXPERTS}.gate_up", True, every=2),
    f"{EXPERTS}.{{expert}}.up_proj.weight": Packed(f"{EXPERTS}.gate_up", True, every=2, first=1),
    f"{EXPERTS}.{{expert}}.down_proj.weight": Packed(f"{EXPERTS}.down"),
    f"{EXPERTS}.{{expert}}.gate_proj.bias": Packed(f"{EXPERTS}.biases", every=2, first=1),
    f"{EXPERTS}.{{expert}}.up_proj.bias": Packed(f"{EXPERTS}.biases", every=2),
}


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """A spec as plain dicts: all kinds of parts, in one to three kinds of block."""
    shape = draw(_heads())
    parts: Tree = {
        "rms": {"kind": "rms_norm", "eps": draw(st.sampled_from([1e-6, 1e-3]))},
        "other-norm": draw(_norm()),
        "mlp": draw(_swiglu() | _mlp()),
        "experts": draw(_moe()),
        "more_experts": draw(_moe()),
        "attention": draw(_gqa(shape)),
        "local": draw(_gqa(shape)),
        "latent": draw(_mla()),
    }
    names = draw(st.sampled_from([["dense"], ["sparse"], ["dense", "b-2"], ["a", "b", "c"]]))
    attention = draw(st.sampled_from([["attention"], ["latent"], ["attention", "local"]]))
    blocks = {name: draw(_steps(attention)) for name in names}
    layers: list[Tree] = [{"repeat": draw(st.integers(1, 5)), "block": name} for name in names]
    if len(names) > 1 and draw(st.booleans()):
        layers.append({"repeat": draw(st.integers(1, 3)), "block": names})
    used = {use for steps in blocks.values() for step in steps for use in step["use"]}
    kept = {n: p for n, p in parts.items() if n in used or "norm" in p["kind"]}
    head = {
        "tied": draw(st.booleans()),
        "bias": draw(st.booleans()),
        "scale": draw(st.none() | FACTOR),
        "softcap": draw(st.none() | FACTOR),
    }
    embed = st.none() | st.builds(lambda s, stored: {"scale": s, "stored": stored}, FACTOR, FLAG)
    return {
        "archsmith": 1,
        "name": "random",
        "dtype": draw(st.sampled_from(DTYPES)),
        "vocab_size": draw(st.integers(2, 3000)),
        "hidden_size": draw(st.integers(1, 5000)),
        "max_positions": draw(st.integers(1, 1 << 20)),
        "layers": layers,
        "blocks": blocks,
        "parts": {name: _given(part) for name, part in kept.items()},
        "final_norm": draw(st.sampled_from(["rms", "other-norm"])),
        "head": _given(head),
        **_given({"embed": draw(embed)}),
    }


def specs(registry: Registry) -> st.SearchStrategy[Spec]:
    """Random specs of the built-in components."""
    return trees().map(lambda tree: from_tree(tree, registry.components))


def assembled(registry: Registry, largest: int = 20_000) -> st.SearchStrategy[Model]:
    """The models of random specs; none whose `largest` parameter at probe sizes takes long.

    Some are of checkpoints that pack experts, each in another way.
    """
    packed = st.sampled_from([{}, PACKED])
    built = st.builds(
        lambda spec, packed: assemble(spec, registry.ops, packed=packed), specs(registry), packed
    )
    return built.filter(lambda model: max(_probes(model)) <= largest)


def _probes(model: Model) -> Iterator[int]:
    """The number of entries of each parameter at probe sizes."""
    for block in model.blocks.values():
        for param in block.params.values():
            yield math.prod(dim.probe for dim in param.program.shape)


def grown(registry: Registry) -> st.SearchStrategy[Model]:
    """Models grown op by op, as no component would build them."""
    return st.composite(lambda draw: Growth(draw, registry.ops).model())()


def models(registry: Registry) -> st.SearchStrategy[Model]:
    return grown(registry) | assembled(registry)


@st.composite
def _steps(draw: st.DrawFn, attention: list[str]) -> list[Tree]:
    second = [["mlp"], ["experts"], ["experts", "mlp"], ["experts", attention[0]]]
    uses = [
        [draw(st.sampled_from(attention))],
        draw(st.sampled_from(second)),
        draw(st.sampled_from([[attention[-1], attention[-1]], ["more_experts"], ["mlp", "mlp"]])),
    ]
    norm = st.sampled_from([None, "rms", "other-norm"])
    count = draw(st.sampled_from([1, 2, 2, 2, 3]))
    return [
        _given(
            {
                "norm": draw(norm),
                "use": use,
                "post_norm": draw(norm),
                "scale": draw(st.none() | FACTOR),
            }
        )
        for use in uses[:count]
    ]


@st.composite
def _norm(draw: st.DrawFn) -> Tree:
    kind, offset = draw(st.sampled_from(["rms_norm", "layer_norm"])), draw(st.integers(0, 1))
    if kind == "rms_norm":
        return {"kind": kind, "eps": 1e-5, "offset": offset}
    if draw(st.booleans()):
        return {"kind": kind, "eps": 1e-5, "gain": False}
    return {"kind": kind, "eps": 1e-5, "bias": draw(st.booleans()), "offset": offset}


@st.composite
def _mlp(draw: st.DrawFn) -> Tree:
    return {
        "kind": "mlp",
        "width": draw(st.integers(1, 4000)),
        "activation": draw(st.sampled_from([*ACTIVATIONS, "relu_squared"])),
        "bias": draw(st.booleans()),
    }


@st.composite
def _swiglu(draw: st.DrawFn) -> Tree:
    return _given(
        {
            "kind": "swiglu",
            "width": draw(st.integers(1, 4000)),
            "activation": draw(st.sampled_from(ACTIVATIONS)),
            "bias": draw(st.booleans()),
            **draw(GATE),
        }
    )


@st.composite
def _moe(draw: st.DrawFn) -> Tree:
    groups, each = draw(st.integers(1, 3)), draw(st.integers(1, 5))
    top_groups = draw(st.integers(1, groups))
    router = {
        "score": draw(st.sampled_from(["softmax", "sigmoid", "sqrtsoftplus"])),
        "bias": draw(st.booleans()),
        "selection_bias": draw(st.booleans()),
        "groups": groups,
        "top_groups": top_groups,
        "group_score": draw(st.sampled_from(["max", "top2_sum"] if each > 1 else ["max"])),
        "normalize": draw(st.booleans()),
        "scale": draw(FACTOR),
    }
    shared: Tree = draw(
        st.sampled_from([{}, {"shared": 1}, {"shared": 2}])
        | st.builds(lambda width: {"shared_width": width}, st.integers(1, 700))
    )
    return {
        "kind": "moe",
        "experts": groups * each,
        "top_k": draw(st.integers(1, top_groups * each)),
        "width": draw(st.integers(1, 700)),
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "bias": draw(st.sampled_from([False, False, True])),
        **draw(GATE),
        **shared,
        "shared_gate": bool(shared) and draw(st.booleans()),
        "router": router,
    }


@st.composite
def _heads(draw: st.DrawFn) -> Tree:
    kv_heads = draw(st.integers(1, 5))
    heads = kv_heads * draw(st.integers(1, 4))
    return {"heads": heads, "kv_heads": kv_heads, "head_dim": draw(st.integers(1, 129))}


@st.composite
def _gqa(draw: st.DrawFn, shape: Tree) -> Tree:
    width = shape["head_dim"]
    whole = width % 2 == 0
    kinds = [None, *(["part"] if width > 1 else []), *(["whole"] if whole else [])]
    kind = draw(st.sampled_from(kinds))
    dim = 2 * draw(st.integers(1, width // 2)) if kind == "part" else None
    return _given(
        {
            "kind": "gqa",
            **shape,
            "rope": None if kind is None else draw(_rope(dim, width)),
            "qk_norm": draw(st.sampled_from([None, "rms", "other-norm"])),
            "qk_norm_over": draw(st.sampled_from(["head", "width"])),
            "clip": draw(st.none() | FACTOR),
            "bias": draw(st.sampled_from(["none", "qkv", "o", "all"])),
            "scale": draw(st.none() | FACTOR),
            "window": draw(st.none() | st.integers(1, 4096)),
            "sinks": draw(st.booleans()),
            "softcap": draw(st.none() | FACTOR),
        }
    )


@st.composite
def _mla(draw: st.DrawFn) -> Tree:
    turned = 2 * draw(st.integers(1, 40))
    return _given(
        {
            "kind": "mla",
            "heads": draw(st.integers(1, 17)),
            "q_lora_rank": draw(st.none() | st.integers(1, 300)),
            "kv_lora_rank": draw(st.integers(1, 600)),
            "qk_nope_head_dim": draw(st.integers(1, 130)),
            "qk_rope_head_dim": turned,
            "v_head_dim": draw(st.integers(1, 130)),
            "rope": draw(_rope(draw(st.sampled_from([None, turned])), turned)),
            "norm": draw(st.sampled_from(["rms", "other-norm"])),
            "bias": draw(st.booleans()),
            "scale": draw(st.none() | FACTOR),
        }
    )


@st.composite
def _rope(draw: st.DrawFn, dim: int | None, width: int) -> Tree:
    yarn = {
        "kind": "yarn",
        "factor": draw(st.sampled_from([0.5, 4.0, 40.0])),
        "original_max_positions": draw(st.integers(1, 8192)),
        "mscale": draw(st.none() | st.sampled_from([0.0, 0.707, 1.0])),
        "mscale_all_dim": draw(st.none() | st.sampled_from([0.0, 0.707, 1.0])),
        "truncate": draw(st.booleans()),
    }
    llama3 = {
        "kind": "llama3",
        "factor": 8.0,
        "original_max_positions": 8192,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
    }
    pairs = (dim or width) // 2
    longrope = {
        "kind": "longrope",
        "factor": draw(st.sampled_from([0.5, 4.0])),
        "original_max_positions": draw(st.integers(2, 8192)),
        "short_factor": [1.0 + 0.1 * pair for pair in range(pairs)],
        "long_factor": [1.0 + pair for pair in range(pairs)],
        "attention_factor": draw(st.none() | FACTOR),
    }
    scaling = st.sampled_from([None, {"kind": "linear", "factor": 2.5}, yarn, llama3, longrope])
    chosen = draw(scaling)
    return _given(
        {
            "theta": draw(st.sampled_from([10000.0, 1e6, 100.5])),
            "dim": dim,
            "interleaved": draw(st.booleans()),
            "scaling": None if chosen is None else _given(chosen),
        }
    )


def _given(fields: Mapping[str, Any]) -> Tree:
    """Fields that are left out where they are None."""
    return {name: value for name, value in fields.items() if value is not None}
