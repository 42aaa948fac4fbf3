"""What transformers saves is imported, and what is imported is described."""

from __future__ import annotations

import copy
import json
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
    rope = config.tree.get("rope_parameters") or {}
    original = rope.get("original_max_position_embeddings", 0)
    longer = case.fields["max_position_embeddings"] > original
    switched = rope.get("rope_type") == "longrope" and longer
    codes = ["E0310"] * bool(passed_over) + ["E0312"] * switched
    assert [found.code for found in warnings] == codes


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
