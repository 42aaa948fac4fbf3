"""The JSON Schema accepts what the loader does, and refuses what a schema can."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from archsmith.compiler.spec.json_schema import DRAFT_7, json_schema
from archsmith.compiler.spec.load import Kinds
from archsmith.compiler.spec.source import parse
from jsonschema import Draft7Validator


@pytest.fixture
def validator(kinds: Kinds) -> Draft7Validator:
    schema = json_schema(kinds)
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema)


def test_a_good_spec_is_valid(good: str, validator: Draft7Validator) -> None:
    assert list(validator.iter_errors(parse(good, "s").tree)) == []


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("archsmith",), 2),
        (("name",), "a b"),
        (("dtype",), "float31"),
        (("hidden_size",), "64"),
        (("hidden_size",), 0),
        (("layers", 0, "repeat"), 0),
        (("layers", 0, "block"), []),
        (("layers", 0, "blok"), "dense"),
        (("blocks", "a b"), [{"use": "mlp"}]),
        (("blocks", "dense", 0, "use"), 3),
        (("parts", "mlp", "kind"), "swigul"),
        (("parts", "mlp", "widht"), 3),
        (("parts", "mlp", "width"), 1.5),
        (("parts", "experts", "router", "score"), "max"),
        (("parts", "experts", "router", "grups"), 1),
        (("parts", "latent", "rope", "scaling", "kind"), "yran"),
        (("parts", "latent", "rope", "scaling", "factor"), -1),
        (("parts", "rms"), {"eps": 1e-6}),
        (("parts", "rms"), {"kind": "rms_norm"}),
        (("head",), {}),
        (("more",), 1),
    ],
)
def test_a_bad_spec_is_not(
    good: str, validator: Draft7Validator, path: tuple[str | int, ...], value: object
) -> None:
    tree: Any = copy.deepcopy(parse(good, "s").tree)
    node = tree
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    assert not validator.is_valid(tree)


def test_it_is_draft_7_and_explains_every_field(kinds: Kinds) -> None:
    schema = json_schema(kinds)
    assert schema["$schema"] == DRAFT_7
    models = [schema, *schema["definitions"].values()]
    for model in models:
        assert model["additionalProperties"] is False
        for name, field in model["properties"].items():
            assert "description" in field or name == "kind", name

    def walk(node: Any) -> None:
        if isinstance(node, dict):
            assert "$defs" not in node
            assert "$ref" not in node or set(node) == {"$ref"}
            if "$ref" in node:
                assert node["$ref"].removeprefix("#/definitions/") in schema["definitions"]
        for child in node.values() if isinstance(node, dict) else node:
            if isinstance(child, dict | list):
                walk(child)

    walk(schema)
