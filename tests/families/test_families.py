"""The families' tables: mistakes are named, and what is absent means what transformers takes."""

from __future__ import annotations

import json
from collections.abc import Sequence
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
from models.configurations.configuration import LLAMA3, MISSING, YARN
from models.tiny import FAMILIES, base, configurations
from transformers import AutoConfig

WRONG = [(name, *mistake) for name in FAMILIES for mistake in configurations(name).WRONG]


@pytest.mark.parametrize(("name", "changes", "place", "code", "message"), WRONG)
def test_a_mistake_is_named_where_it_is(
    name: str,
    changes: dict[str, Any],
    place: str,
    code: str,
    message: str,
    families: dict[str, type[Family]],
) -> None:
    fields = {k: v for k, v in (base(name) | changes).items() if v is not MISSING}
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
    fields = base("deepseek_v3") | {"vocab_size": None, "x": 1, "n_group": 5, "hidden_act": "no"}
    del fields["hidden_size"]
    fields["rope_scaling"] = {"type": "su"}
    with pytest.raises(SpecError) as caught:
        families["deepseek_v3"]().read(parse_config(json.dumps(fields)))
    codes = sorted(found.code for found in caught.value.diagnostics)
    assert codes == ["E0304", "E0305", "E0306", "E0306", "E0307", "E0308"]


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_absent_means_what_transformers_takes(
    name: str, families: dict[str, type[Family]]
) -> None:
    family = families[name]()
    given = getattr(configurations(name), "READ_WITH", {})
    config = AutoConfig.for_model(name, **given)
    checked = 0
    for field in family.fields().values():
        theirs = getattr(config, field.name, MISSING)
        known = isinstance(field.default, Mark | Same | Ratio) or field.name in given
        if known or field.name == "dtype":
            continue
        mine = [] if field.default == () else field.default
        if field.lists_layers:  # what layers they are, where none are listed
            listed = {other.name: other.default for other in family.schedule} | given
            layers = family.layers(listed | {"num_hidden_layers": config.num_hidden_layers})
            mine = family.schedule_of(layers)[field.name]
        assert theirs == mine, field.name
        checked += 1
    assert checked >= 5
    assert family.defaults({})["rope_theta"] == config.rope_parameters["rope_theta"]


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
    trees = [family.read(base("llama") | form)[0] for form in forms]
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
    fields = base("llama") | {"rope_scaling": {"type": "yarn", "factor": 2.0}}
    tree, _ = families["llama"]().read(fields)
    assert tree["parts"]["attention"]["rope"]["scaling"]["original_max_positions"] == 128


def test_norms_inside_latent_attention_keep_their_eps(families: dict[str, type[Family]]) -> None:
    family = families["deepseek_v3"]()
    same, _ = family.read(base("deepseek_v3") | {"rms_norm_eps": 1e-6})
    other, _ = family.read(base("deepseek_v3") | {"rms_norm_eps": 1e-5})
    assert "latent_rms" not in same["parts"]
    assert same["parts"]["attention"]["norm"] == "rms"
    assert other["parts"]["rms"]["eps"] == 1e-5
    assert other["parts"][other["parts"]["attention"]["norm"]]["eps"] == 1e-6


def test_a_hand_written_spec_is_described(families: dict[str, type[Family]]) -> None:
    family = families["deepseek_v2"]()
    tree, _ = family.read(base("deepseek_v2") | {"q_lora_rank": 20})
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


FP8 = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128]}


def test_fp8_is_told_of(families: dict[str, type[Family]]) -> None:
    fields = base("deepseek_v3") | {"quantization_config": FP8 | {"scale_fmt": "ue8m0"}}
    _, warnings = families["deepseek_v3"]().read(fields)
    assert [(found.code, found.severity) for found in warnings] == [("E0311", "warning")]


def test_mxfp4_is_told_of(families: dict[str, type[Family]]) -> None:
    quantization = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    fields = base("gpt_oss") | {"quantization_config": quantization}
    tree, [warning] = families["gpt_oss"]().read(fields)
    assert (warning.code, warning.severity) == ("E0311", "warning")
    assert "stored in mxfp4" in warning.message
    assert tree == families["gpt_oss"]().read(base("gpt_oss"))[0]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("quant_method", "awq"),
        ("fmt", "e5m2"),
        ("activation_scheme", "static"),
        ("weight_block_size", None),
        ("weight_block_size", [128]),
        ("weight_block_size", [128, 0]),
        ("weight_block_size", [128, True]),
    ],
)
def test_another_quantization_is_refused(
    families: dict[str, type[Family]], field: str, value: object
) -> None:
    fields = base("deepseek_v3") | {"quantization_config": FP8 | {field: value}}
    with pytest.raises(SpecError, match=f"{field} .* of quantization_config is not supp") as error:
        families["deepseek_v3"]().read(fields)
    assert [found.code for found in error.value.diagnostics] == ["E0307"]


@pytest.mark.parametrize(
    "code",
    ["E0302", "E0303", "E0304", "E0305", "E0306", "E0307", "E0308", "E0310", "E0311", "E0312"],
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
    name = data.draw(st.sampled_from(FAMILIES))
    family = families[name]()
    fields = dict(base(name))
    for key in data.draw(st.lists(st.sampled_from(sorted(family.known())), max_size=3)):
        fields[key] = data.draw(JSON)
    if data.draw(st.booleans()):
        scaling = st.sampled_from(["yarn", "linear", "llama3", "longrope", "su", "default"])
        fields["rope_scaling"] = dict(YARN) | {
            "type": data.draw(scaling),
            "factor": data.draw(JSON),
            "short_factor": data.draw(JSON | st.just([1.0] * 7)),
            "long_factor": [2] * 7,
        }
    try:
        tree, _ = family.read(fields)
    except SpecError:
        return
    assert family.read(family.describe(tree))[0] == tree


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])
def test_windows_that_no_list_names(name: str, families: dict[str, type[Family]]) -> None:
    """They are described so that a configuration without the list means the same layers."""
    family = families[name]()
    windows = {"use_sliding_window": True, "max_window_layers": 2}
    described = family.describe(family.read(base(name) | windows)[0])
    assert described["layer_types"] == ["full_attention"] * 2 + ["sliding_attention"]
    assert family.defaults(described)["layer_types"] == described["layer_types"]


def test_what_a_schedule_does_not_describe_has_its_default(
    families: dict[str, type[Family]],
) -> None:
    class Terse(families["qwen2"]):  # type: ignore[misc]
        def schedule_of(self, layers: Sequence[str]) -> dict[str, Any]:
            return {"layer_types": super().schedule_of(layers)["layer_types"]}

    family = Terse()
    described = family.describe(family.read(base("qwen2"))[0])
    assert family.defaults(described)["layer_types"] == ["full_attention"] * 3


def test_a_field_of_the_schedule_that_stands_in_a_part_is_compared(
    families: dict[str, type[Family]],
) -> None:
    class Wider(families["mistral"]):  # type: ignore[misc]
        schedule = (families["mistral"]().fields()["sliding_window"],)

    family = Wider()
    assert family.meaning(family.read(base("mistral"))[0])["sliding_window"] == 5


def test_each_family_is_tried(families: dict[str, type[Family]]) -> None:
    assert set(FAMILIES) == families.keys()
