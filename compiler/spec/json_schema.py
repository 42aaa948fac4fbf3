"""The spec as a JSON Schema, draft 7, for editors to complete and check by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic.json_schema import models_json_schema

from .fields import NAME
from .schema import Part, Spec

DRAFT_7 = "http://json-schema.org/draft-07/schema#"
REF = "#/definitions/{model}"


def json_schema(kinds: Mapping[str, type[Part]]) -> dict[str, Any]:
    """Return the schema of specs whose parts are of these kinds.

    It says what a field may hold. What holds between fields (a name that refers to nothing,
    `top_k` over `experts`) is beyond it, and `archsmith check`'s to say.
    """
    models = [(model, "validation") for model in (Spec, *(kinds[kind] for kind in sorted(kinds)))]
    references, schema = models_json_schema(models, ref_template=REF)  # type: ignore[arg-type]
    definitions: dict[str, Any] = schema["$defs"]
    names = {kind: _name(references[model, "validation"]) for kind, model in kinds.items()}
    for kind, name in names.items():
        part = definitions[name]
        part["properties"] = {"kind": {"const": kind}, **part.get("properties", {})}
        part["required"] = ["kind", *part.get("required", ())]
    root: dict[str, Any] = definitions.pop(_name(references[Spec, "validation"]))
    definitions.pop(Part.__name__, None)
    parts = root["properties"]["parts"]
    parts.pop("patternProperties", None)
    parts["additionalProperties"] = _any_of(names)
    for section in (parts, root["properties"]["blocks"]):
        section["propertyNames"] = {"pattern": f"^{NAME.pattern}$"}
    root = {"$schema": DRAFT_7, **root, "definitions": definitions}
    return {key: _draft_7(value) for key, value in root.items()}


def _name(reference: Mapping[str, Any]) -> str:
    """Return the name of the definition that a reference points at."""
    return str(reference["$ref"]).rpartition("/")[2]


def _any_of(names: Mapping[str, str]) -> dict[str, Any]:
    """Return the schema of a part: a definition for each kind."""
    return {
        "type": "object",
        "required": ["kind"],
        "properties": {"kind": {"enum": sorted(names)}},
        "allOf": [
            {
                "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
                "then": {"$ref": REF.format(model=names[kind])},
            }
            for kind in sorted(names)
        ],
    }


def _draft_7(node: Any) -> Any:
    """Return a schema in the words of draft 7, where `$ref` hides what is beside it.

    The titles that pydantic makes of names, and OpenAPI's discriminators, are left out.
    """
    if isinstance(node, list):
        return [_draft_7(item) for item in node]
    if not isinstance(node, dict):
        return node
    result = {key: _draft_7(value) for key, value in node.items()}
    if isinstance(result.get("title"), str):
        del result["title"]
    if "propertyName" in result.get("discriminator", ()):
        del result["discriminator"]
    if "$ref" in result and len(result) > 1:
        result["allOf"] = [{"$ref": result.pop("$ref")}]
    return result
