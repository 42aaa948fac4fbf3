"""The families' tables: mistakes are named, and what is absent means what transformers takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from archsmith.compiler.families.config import parse_config
from archsmith.compiler.families.family import Family
from archsmith.compiler.families.field import Mark, Ratio, Same
from archsmith.compiler.spec.diagnostics import Span, SpecError
from archsmith.compiler.spec.explain import explain
from archsmith.compiler.spec.source import Source
from hypothesis import given
from hypothesis import strategies as st
from models.tiny import BASES, GROUPED, LLAMA3, YARN
from transformers import AutoConfig

MISSING = object()
BOTH_TYPES = {"type": "yarn", "rope_type": "linear", "factor": 2}
WRONG: list[tuple[str, dict[str, Any], str, str, str]] = [
    ("llama", {"hiden_act": "silu"}, "hiden_act", "E0304", "unknown field"),
    ("llama", {"\u2028x": 1}, "\u2028x", "E0304", "unknown field"),
    ("llama", {"hidden_size": MISSING}, "", "E0305", "lacks `hidden_size`"),
    ("llama", {"hidden_size": None}, "hidden_size", "E0306", "must be a whole number"),
    ("llama", {"hidden_size": 42.0}, "hidden_size", "E0306", "must be a whole number"),
    ("llama", {"hidden_size": True}, "hidden_size", "E0306", "must be a whole number"),
    ("llama", {"vocab_size": 2**40}, "vocab_size", "E0306", "must be a whole number"),
    ("llama", {"vocab_size": "__import__('os')"}, "vocab_size", "E0306", "must be a whole"),
    ("llama", {"num_hidden_layers": 2**31 - 1}, "num_hidden_layers", "E0306", "100000"),
    ("llama", {"num_hidden_layers": 0}, "num_hidden_layers", "E0306", "must be a whole number"),
    ("llama", {"rms_norm_eps": -1e-6}, "rms_norm_eps", "E0306", "must be a number above 0"),
    ("llama", {"hidden_act": "swiglu"}, "hidden_act", "E0306", "one of `silu`"),
    ("llama", {"hidden_act": ["silu"]}, "hidden_act", "E0306", "one of `silu`"),
    ("llama", {"attention_bias": "yes"}, "attention_bias", "E0306", "one of `false`"),
    ("llama", {"attention_bias": 1}, "attention_bias", "E0306", "one of `false`"),
    ("llama", {"mlp_bias": 0}, "mlp_bias", "E0306", "true or false"),
    ("llama", {"dtype": "int8"}, "dtype", "E0306", "one of `bfloat16`"),
    ("llama", {"dtype": "float16", "torch_dtype": "float32"}, "torch_dtype", "E0308", "disagree"),
    ("llama", {"sliding_window": 4096}, "sliding_window", "E0307", "whole context"),
    ("llama", {"is_encoder_decoder": True}, "is_encoder_decoder", "E0307", "encoder"),
    ("llama", {"architectures": ["LlamaForQuestionAnswering"]}, "architectures", "E0307", ""),
    (
        "llama",
        {"quantization_config": {"quant_method": "gptq"}},
        "quantization_config",
        "E0307",
        "",
    ),
    ("llama", {"num_key_value_heads": 2}, "num_attention_heads", "E0308", "not a multiple"),
    ("llama", {"hidden_size": 44}, "hidden_size", "E0308", "not a multiple"),
    ("llama", {"head_dim": 7}, "head_dim", "E0308", "odd"),
    ("llama", {"rope_scaling": {"type": "longrope"}}, "rope_scaling", "E0307", "`longrope`"),
    ("llama", {"rope_scaling": {"type": "dynamic", "factor": 2}}, "rope_scaling", "E0307", ""),
    ("llama", {"rope_scaling": {"type": []}}, "rope_scaling", "E0307", "not supported"),
    ("llama", {"rope_scaling": {"type": "linear"}}, "rope_scaling", "E0305", "lacks `factor`"),
    ("llama", {"rope_scaling": {**YARN, "mscal": 1}}, "rope_scaling", "E0307", "`mscal`"),
    ("llama", {"rope_scaling": {**YARN, "attention_factor": 1.5}}, "rope_scaling", "E0307", ""),
    ("llama", {"rope_scaling": {**YARN, "factor": "4"}}, "rope_scaling", "E0306", "above 0"),
    ("llama", {"rope_scaling": BOTH_TYPES}, "rope_scaling", "E0308", "disagree"),
    ("llama", {"rope_scaling": {**LLAMA3, "low_freq_factor": None}}, "rope_scaling", "E0305", ""),
    ("llama", {"rope_scaling": [1]}, "rope_scaling", "E0306", "an object"),
    ("llama", {"rope_parameters": {"full": {}}}, "rope_parameters", "E0307", "`full`"),
    ("llama", {"rope_theta": 0}, "rope_theta", "E0306", "above 0"),
    (
        "llama",
        {"rope_theta": 5, "rope_parameters": {"rope_theta": 6}},
        "rope_parameters",
        "E0308",
        "",
    ),
    ("llama", {"rope_scaling": YARN, "rope_parameters": LLAMA3}, "rope_parameters", "E0308", ""),
    ("llama", {"partial_rotary_factor": 0.5}, "partial_rotary_factor", "E0307", "part of a head"),
    ("mixtral", {"num_experts_per_tok": 6}, "num_experts_per_tok", "E0308", "exceeds"),
    ("mixtral", {"num_experts": 6}, "num_experts", "E0308", "disagree"),
    ("mixtral", {"sliding_window": 0}, "sliding_window", "E0306", "must be a whole number"),
    ("mixtral", {"attention_bias": True}, "attention_bias", "E0307", "no biases"),
    ("qwen3_moe", {"use_sliding_window": True}, "use_sliding_window", "E0307", "versions"),
    ("qwen3_moe", {"mlp_only_layers": [-1]}, "mlp_only_layers", "E0306", "layer numbers"),
    ("qwen3_moe", {"decoder_sparse_step": 0}, "decoder_sparse_step", "E0306", ""),
    ("qwen3_moe", {"num_key_value_heads": None}, "num_key_value_heads", "E0306", ""),
    ("deepseek_v2", {"topk_method": "noaux_tc"}, "topk_method", "E0306", "`greedy`"),
    ("deepseek_v2", {"scoring_func": "sigmoid"}, "scoring_func", "E0307", "softmax"),
    ("deepseek_v2", {"moe_layer_freq": 2}, "moe_layer_freq", "E0307", "dense layers"),
    ("deepseek_v2", {"mlp_bias": True}, "mlp_bias", "E0307", "not modelled"),
    ("deepseek_v2", {"num_experts_per_tok": MISSING}, "", "E0305", "num_experts_per_tok"),
    ("deepseek_v2", {"qk_head_dim": 17}, "qk_head_dim", "E0308", "is not qk_nope_head_dim"),
    ("deepseek_v2", {"head_dim": 14}, "head_dim", "E0308", "is not qk_rope_head_dim"),
    ("deepseek_v2", {"num_key_value_heads": 1}, "num_key_value_heads", "E0308", "is not"),
    ("deepseek_v2", {**GROUPED, "n_group": 2}, "n_routed_experts", "E0308", "not a multiple"),
    ("deepseek_v2", {**GROUPED, "topk_group": 4}, "topk_group", "E0308", "exceeds n_group"),
    ("deepseek_v2", {**GROUPED, "topk_group": 1}, "num_experts_per_tok", "E0308", "exceeds"),
    ("deepseek_v3", {"qk_rope_head_dim": 5}, "qk_rope_head_dim", "E0308", "odd"),
    (
        "deepseek_v3",
        {"n_group": 12, "topk_group": 4},
        "n_routed_experts",
        "E0308",
        "less than 2 times",
    ),
    ("deepseek_v3", {"topk_method": "greedy"}, "topk_method", "E0307", "score and bias"),
    ("deepseek_v3", {"scoring_func": "softmax"}, "scoring_func", "E0307", "sigmoid"),
]


@pytest.mark.parametrize(("name", "changes", "place", "code", "message"), WRONG)
def test_a_mistake_is_named_where_it_is(
    name: str,
    changes: dict[str, Any],
    place: str,
    code: str,
    message: str,
    families: dict[str, type[Family]],
) -> None:
    fields = {k: v for k, v in (BASES[name] | changes).items() if v is not MISSING}
    config = parse_config(json.dumps(fields, indent=2, ensure_ascii=False))
    with pytest.raises(SpecError) as caught:
        families[name]().read(config)
    (found,) = caught.value.diagnostics
    assert found.code == code
    assert message in found.message
    assert found.span is not None
    assert where(config, found.span) == (place,) if place else found.span.line == 1


def where(config: Source, span: Span) -> tuple[str | int, ...]:
    """The field at the top of the file that holds this place."""
    within = [path for path, at in [*config.keys.items(), *config.values.items()] if at == span]
    return within[0][:1]


def test_mistakes_are_told_together(families: dict[str, type[Family]]) -> None:
    fields = BASES["deepseek_v3"] | {"vocab_size": None, "x": 1, "n_group": 5, "hidden_act": "no"}
    del fields["hidden_size"]
    fields["rope_scaling"] = {"type": "su"}
    with pytest.raises(SpecError) as caught:
        families["deepseek_v3"]().read(parse_config(json.dumps(fields)))
    codes = sorted(found.code for found in caught.value.diagnostics)
    assert codes == ["E0304", "E0305", "E0306", "E0306", "E0307", "E0308"]


@pytest.mark.parametrize("name", BASES)
def test_what_is_absent_means_what_transformers_takes(
    name: str, families: dict[str, type[Family]]
) -> None:
    config = AutoConfig.for_model(name)
    checked = 0
    for field in families[name]().fields().values():
        theirs = getattr(config, field.name, MISSING)
        if isinstance(field.default, Mark | Same | Ratio) or field.name == "dtype":
            continue
        assert theirs == ([] if field.default == () else field.default), field.name
        checked += 1
    assert checked >= 5
    assert families[name]().defaults({})["rope_theta"] == config.rope_parameters["rope_theta"]


def test_both_forms_of_rope_are_one(families: dict[str, type[Family]]) -> None:
    family = families["llama"]()
    new = {**LLAMA3, "rope_theta": 300.0}
    forms = [
        {"rope_scaling": LLAMA3, "rope_theta": 300},
        {"rope_scaling": {**LLAMA3, "type": "llama3"}, "rope_theta": 300.0},
        {"rope_parameters": new},
        {"rope_parameters": new, "rope_theta": 300.0, "rope_scaling": None},
        {"rope_parameters": new, "rope_scaling": new},
        {"rope_parameters": {**new, "partial_rotary_factor": 1.0, "attention_factor": None}},
    ]
    trees = [family.read(BASES["llama"] | form)[0] for form in forms]
    assert all(tree == trees[0] for tree in trees)
    assert trees[0]["parts"]["attention"]["rope"] == {
        "theta": 300,
        "interleaved": False,
        "scaling": {
            "kind": "llama3",
            "factor": 8,
            "original_max_positions": 32,
            "low_freq_factor": 1,
            "high_freq_factor": 4,
        },
    }


def test_the_original_length_is_the_whole_one_unless_given(
    families: dict[str, type[Family]],
) -> None:
    fields = BASES["llama"] | {"rope_scaling": {"type": "yarn", "factor": 2.0}}
    tree, _ = families["llama"]().read(fields)
    assert tree["parts"]["attention"]["rope"]["scaling"]["original_max_positions"] == 128


def test_norms_inside_latent_attention_keep_their_eps(families: dict[str, type[Family]]) -> None:
    family = families["deepseek_v3"]()
    same, _ = family.read(BASES["deepseek_v3"] | {"rms_norm_eps": 1e-6})
    other, _ = family.read(BASES["deepseek_v3"] | {"rms_norm_eps": 1e-5})
    assert "latent_rms" not in same["parts"]
    assert same["parts"]["attention"]["norm"] == "rms"
    assert other["parts"]["rms"]["eps"] == 1e-5
    assert other["parts"][other["parts"]["attention"]["norm"]]["eps"] == 1e-6


def test_a_hand_written_spec_is_described(families: dict[str, type[Family]]) -> None:
    family = families["deepseek_v2"]()
    tree, _ = family.read(BASES["deepseek_v2"] | {"q_lora_rank": 20})
    renamed = json.loads(
        json.dumps(tree)
        .replace('"attention"', '"look"')
        .replace('"experts"}', '"choose"}')
        .replace('"experts": {', '"choose": {')
        .replace('"sparse"', '"wide"')
        .replace('"rms"', '"n"')
    )
    assert renamed != tree
    assert family.describe(renamed) == family.describe(tree)


def test_fp8_is_told_of(families: dict[str, type[Family]]) -> None:
    fields = BASES["deepseek_v3"] | {"quantization_config": {"quant_method": "fp8", "fmt": "e4m3"}}
    _, warnings = families["deepseek_v3"]().read(fields)
    assert [(found.code, found.severity) for found in warnings] == [("E0311", "warning")]


@pytest.mark.parametrize(
    "code", ["E0302", "E0303", "E0304", "E0305", "E0306", "E0307", "E0308", "E0310", "E0311"]
)
def test_each_page_shows_its_mistake(code: str, families: dict[str, type[Family]]) -> None:
    text = explain(code).partition("```json\n")[2].partition("\n```")[0]
    try:
        config = parse_config(text)
        name = config.tree["model_type"]
        if name not in families:
            assert code == "E0303"
            return
        found = families[name]().read(config)[1]
    except SpecError as error:
        found = list(error.diagnostics)
    assert [x.code for x in found] == [code]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(data=st.data())
def test_no_value_breaks_the_reader(data: st.DataObject, families: dict[str, type[Family]]) -> None:
    name = data.draw(st.sampled_from(sorted(BASES)))
    family = families[name]()
    fields = dict(BASES[name])
    for key in data.draw(st.lists(st.sampled_from(sorted(family.known())), max_size=3)):
        fields[key] = data.draw(JSON)
    if data.draw(st.booleans()):
        scaling = st.sampled_from(["yarn", "linear", "llama3", "default"])
        fields["rope_scaling"] = dict(YARN) | {
            "type": data.draw(scaling),
            "factor": data.draw(JSON),
        }
    try:
        tree, _ = family.read(fields)
    except SpecError:
        return
    assert family.read(family.describe(tree))[0] == tree
