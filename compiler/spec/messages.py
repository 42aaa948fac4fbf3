"""What pydantic found, in a sentence, with its code and its place in the source."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from .diagnostics import Diagnostic, accepted, did_you_mean, quoted
from .source import KeyPath, Source

Models = Mapping[int, type[BaseModel]]

WANTED = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a map",
    "mapping_type": "a map",
    "model_type": "a map",
    "model_attributes_type": "a map",
}
RANGES = {
    "greater_than": ("gt", "above"),
    "greater_than_equal": ("ge", "at least"),
    "less_than": ("lt", "below"),
    "less_than_equal": ("le", "at most"),
}


def message_of(error: ErrorDetails, source: Source, models: Models) -> Diagnostic | None:
    """Return the diagnostic of one of pydantic's errors; None where another says the same.

    `models` maps the identity of a dict in `source.tree` to the model that it was read as.
    """
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    path = _path(error["loc"], source.tree)
    label, value = _label(path), source.value(path)
    if "[key]" in error["loc"]:
        return Diagnostic(kind, context["message"], source.key(path), context["help"])
    if re.fullmatch(r"E\d{4}", kind):
        place = source.value((*path, context["at"])) if context["at"] else value
        return Diagnostic(kind, context["message"], place, context["help"])
    if kind == "missing":
        owner, field = path[:-1], str(path[-1])
        message = f"{_owner(owner)} lacks {quoted(field)}"
        return Diagnostic("E0202", message, source.value(owner), _about(path, source, models))
    if kind == "extra_forbidden":
        return _unknown(path, source, models)
    if kind in RANGES:
        key, word = RANGES[kind]
        message = f"{label} ({given}) must be {word} {context[key]:g}"
        return Diagnostic("E0204", message, value, _about(path, source, models))
    if kind == "too_short":
        # Items that are wrong are not counted, but have been told of.
        message = f"{label} must have an entry"
        return None if given else Diagnostic("E0204", message, value, _about(path, source, models))
    if kind in ("literal_error", "union_tag_invalid"):
        choices = re.findall(r"'([^']*)'", context.get("expected") or context["expected_tags"])
        path = (*path, "kind") if kind == "union_tag_invalid" else path
        given = given.get("kind") if isinstance(given, dict) else given
        message = f"{_label(path)} cannot be {_shown(given)}"
        choice = accepted(given, choices, "it may be")
        return Diagnostic("E0205", message, source.value(path), choice)
    if kind == "union_tag_not_found":
        return Diagnostic("E0202", f"{label} lacks `kind`", value, _about(path, source, models))
    message = f"{label} must be {WANTED.get(kind, error['msg'].lower())}, not {_shown(given)}"
    help = _correction(kind, given) or _about(path, source, models)
    return Diagnostic("E0201", message, value, help)


def _unknown(path: KeyPath, source: Source, models: Models) -> Diagnostic:
    owner, field = path[:-1], str(path[-1])
    node = _node(owner, source.tree)
    model = models.get(id(node))
    written = set(node) if isinstance(node, dict) else set()
    fields = set(model.model_fields) - written if model else set()
    guess = did_you_mean(field, fields)
    help = f"did you mean {quoted(guess)}?" if guess else accepted(None, fields, "it may have")
    message = f"{_owner(owner)} has no field {quoted(field)}"
    return Diagnostic("E0203", message, source.key(path), help)


def _path(loc: tuple[int | str, ...], tree: Any) -> KeyPath:
    """Return the keys and indices of a location: the tags of unions and `[key]` are none."""
    path: list[int | str] = []
    node = tree
    for at, key in enumerate(loc):
        last = at == len(loc) - 1
        if key == "[key]" and last:
            continue
        if isinstance(node, dict) and key not in node and node.get("kind") == key and not last:
            continue
        path.append(key)
        node = _node((key,), node)
    return tuple(path)


def _node(path: KeyPath, node: Any) -> Any:
    for key in path:
        if isinstance(node, dict):
            node = node.get(key)
        elif isinstance(node, list) and isinstance(key, int) and key < len(node):
            node = node[key]
        else:
            return None
    return node


def _label(path: KeyPath) -> str:
    """Return what to call the value at `path`: its key, with indices after it."""
    if not path:
        return "a spec"
    at = max((i for i, key in enumerate(path) if isinstance(key, str)), default=0)
    indices = "".join(f"[{key}]" for key in path[at + 1 :])
    name = str(path[at])
    return (quoted(name) if path[0] in ("parts", "blocks") and at == 1 else name) + indices


def _owner(path: KeyPath) -> str:
    if not path:
        return "the spec"
    if len(path) == 2 and path[0] in ("parts", "blocks"):
        return f"the {str(path[0])[:-1]} {quoted(path[1])}"
    return _label(path)


def _about(path: KeyPath, source: Source, models: Models) -> str | None:
    """Return what the field at `path` is."""
    while path and not isinstance(path[-1], str):
        path = path[:-1]
    model = models.get(id(_node(path[:-1], source.tree))) if path else None
    info = model.model_fields.get(str(path[-1])) if model else None
    if path and info and info.description:
        return f"{path[-1]} is {info.description}"
    return "a spec starts with `archsmith: 1`" if not path else None


def _shown(value: object) -> str:
    """Return a wrong value for a message."""
    if value is None:
        return "empty"
    if isinstance(value, dict):
        return "a map"
    if isinstance(value, list | tuple):
        return "a list"
    return f"the text {quoted(value)}" if isinstance(value, str) else quoted(value)


def _correction(kind: str, given: object) -> str | None:
    """Return what was meant, where a value is nearly right."""
    if kind.startswith("int") and isinstance(given, float) and given.is_integer():
        return f"write {int(given)}"
    if kind in ("int_type", "float_type") and isinstance(given, str):
        plain = given.replace("_", "").replace(",", "")
        return f"write {plain}" if plain.isdecimal() and len(plain) < 19 else None
    if kind == "bool_type" and given in ("yes", "no", "on", "off"):
        return "write true" if given in ("yes", "on") else "write false"
    return None
