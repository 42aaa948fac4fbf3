"""What transformers saves is what the families' tables say, by name and by shape."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from archsmith.compiler.components.component import Component
from archsmith.compiler.families.config import read_config
from archsmith.compiler.families.family import Family, family_of
from archsmith.compiler.spec.load import from_tree
from models.oracle import logits
from models.tiny import Case, cases, save
from safetensors import safe_open

Shape = tuple[int, ...]


@pytest.mark.parametrize("case", cases(), ids=str)
def test_a_saved_model_is_imported(
    case: Case,
    families: dict[str, type[Family]],
    kinds: dict[str, type[Component]],
    tmp_path: Path,
) -> None:
    save(case, tmp_path)
    config = read_config(tmp_path)
    family = family_of(config, families)
    tree, warnings = family.read(config)

    spec = from_tree(tree, kinds, families)
    assert spec.layer_count == case.fields["num_hidden_layers"]
    assert tree["dtype"] == "float64"
    passed_over = case.family == "deepseek_v2" and case.fields.get("norm_topk_prob")
    assert [found.code for found in warnings] == (["E0310"] if passed_over else [])
    assert stored(tmp_path) == dict(predicted(tree, family))


@pytest.mark.parametrize("case", cases(), ids=str)
def test_what_is_read_is_described(
    case: Case,
    families: dict[str, type[Family]],
    kinds: dict[str, type[Component]],
    tmp_path: Path,
) -> None:
    family = families[case.family]()
    written = config_of(case)
    tree, _ = family.read(written)
    described = family.describe(tree)
    assert family.read(described)[0] == tree
    assert family.describe(from_tree(tree, kinds)) == described
    # The same meaning, found in the file without reading it: what an emitted package does.
    found = (
        family.defaults(described)
        | family.nulls(described)
        | {family.aliases().get(name, name): x for name, x in written.items() if x is not None}
    )
    for name, value in family.meaning(tree).items():
        if name != "rope_parameters":
            assert found.get(name) == value, name


def test_other_dtypes_and_shards(families: dict[str, type[Family]], tmp_path: Path) -> None:
    case = cases("deepseek_v3")[0]
    model = save(case, tmp_path, dtype=torch.bfloat16, shards=3)
    assert len(list(tmp_path.glob("*.safetensors"))) >= 3
    tree, _ = families[case.family]().read(read_config(tmp_path))
    assert tree["dtype"] == "bfloat16"
    bias = model.model.layers[1].mlp.gate.e_score_correction_bias
    assert bias.dtype == torch.float64
    assert not torch.equal(bias, bias.bfloat16().double())
    assert torch.equal(bias, bias.float().double())
    weight = model.model.layers[1].self_attn.o_proj.weight
    assert torch.equal(weight, weight.bfloat16().double())


def test_the_oracle_computes_in_float64(tmp_path: Path) -> None:
    tokens = torch.arange(24).reshape(2, 12)
    for case in cases("deepseek_v3", "qwen3_moe"):
        if case.title in ("yarn", "biases"):
            model = save(case, tmp_path)
            exact = logits(model, tokens)
            assert exact.dtype == torch.float64
            with torch.no_grad():
                cast = model(tokens, use_cache=False).logits
            error = (exact - cast).abs().max()
            assert 1e-10 < error < 1e-3  # what transformers' own casts to float32 cost


def config_of(case: Case) -> dict[str, Any]:
    from transformers import AutoConfig

    config = AutoConfig.for_model(case.family, **copy.deepcopy(case.fields))
    fields: dict[str, Any] = json.loads(config.to_json_string())
    return fields


def stored(folder: Path) -> dict[str, Shape]:
    """The shape of each tensor of a checkpoint that is not empty."""
    shapes = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                shapes[name] = tuple(file.get_slice(name).get_shape())
    return {name: shape for name, shape in shapes.items() if 0 not in shape}


def predicted(tree: dict[str, Any], family: Family) -> Iterator[tuple[str, Shape]]:
    """The name and shape of each tensor that a spec's checkpoint holds."""
    names, hidden, vocab = family.tensors, tree["hidden_size"], tree["vocab_size"]
    yield names["embed"], (vocab, hidden)
    yield names["final_norm"], (hidden,)
    if not tree["head"]["tied"]:
        yield names["head"], (vocab, hidden)
    layer = 0
    for entry in tree["layers"]:
        for _ in range(entry["repeat"]):
            for number, step in enumerate(tree["blocks"][entry["block"]]):
                yield names[f"norm.{number}"].format(layer=layer), (hidden,)
                part = tree["parts"][step["use"]]
                for role, shape in ROLES[part["kind"]](part, hidden):
                    for expert in range(part["experts"] if ".experts." in role else 1):
                        yield names[role].format(layer=layer, expert=expert), shape
            layer += 1


def gqa(part: dict[str, Any], hidden: int) -> Iterator[tuple[str, Shape]]:
    width = part["head_dim"]
    queries, keys = part["heads"] * width, part["kv_heads"] * width
    for role, rows in (("q", queries), ("k", keys), ("v", keys)):
        yield f"gqa.{role}", (rows, hidden)
        if part.get("bias") == "all":
            yield f"gqa.{role}_bias", (rows,)
    yield "gqa.o", (hidden, queries)
    if part.get("bias") == "all":
        yield "gqa.o_bias", (hidden,)
    if "qk_norm" in part:
        yield "gqa.q_norm", (width,)
        yield "gqa.k_norm", (width,)


def mla(part: dict[str, Any], hidden: int) -> Iterator[tuple[str, Shape]]:
    heads, rank = part["heads"], part["kv_lora_rank"]
    nope, turned, value = (part[x] for x in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"))
    biases = {"kv_a_bias": rank + turned, "o_bias": hidden}
    if "q_lora_rank" in part:
        yield "mla.q_a", (part["q_lora_rank"], hidden)
        yield "mla.q_a_norm", (part["q_lora_rank"],)
        yield "mla.q_b", (heads * (nope + turned), part["q_lora_rank"])
        biases["q_a_bias"] = part["q_lora_rank"]
    else:
        yield "mla.q", (heads * (nope + turned), hidden)
    yield "mla.kv_a", (rank + turned, hidden)
    yield "mla.kv_a_norm", (rank,)
    yield "mla.kv_b", (heads * (nope + value), rank)
    yield "mla.o", (hidden, heads * value)
    for role, size in biases.items():
        if part.get("bias"):
            yield f"mla.{role}", (size,)


def gated(role: str, width: int, hidden: int) -> Iterator[tuple[str, Shape]]:
    yield f"{role}.gate", (width, hidden)
    yield f"{role}.up", (width, hidden)
    yield f"{role}.down", (hidden, width)


def swiglu(part: dict[str, Any], hidden: int) -> Iterator[tuple[str, Shape]]:
    yield from gated("swiglu", part["width"], hidden)
    if part.get("bias"):
        yield "swiglu.gate_bias", (part["width"],)
        yield "swiglu.up_bias", (part["width"],)
        yield "swiglu.down_bias", (hidden,)


def moe(part: dict[str, Any], hidden: int) -> Iterator[tuple[str, Shape]]:
    yield "moe.router", (part["experts"], hidden)
    if part["router"].get("selection_bias"):
        yield "moe.router_bias", (part["experts"],)
    yield from gated("moe.experts", part["width"], hidden)
    if part.get("shared"):
        yield from gated("moe.shared", part["shared"] * part["width"], hidden)


ROLES = {"gqa": gqa, "mla": mla, "swiglu": swiglu, "moe": moe}
