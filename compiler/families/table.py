"""A table of a spec with fields in it: filled from a configuration's values, and read back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..spec.schema import Spec
from . import rope
from .field import Field, Mark
from .rope import RopeField
from .scalings import ORIGINAL

Tree = dict[str, Any]


@dataclass(frozen=True)
class With:
    """A constant that stands in the spec where the value of `field` does."""

    field: str
    value: object


def tree_of(spec: Spec) -> Tree:
    """Return what a page says that reads as `spec`: fields that were left out stay so."""
    tree: Tree = spec.model_dump(exclude_unset=True, exclude={"parts"})
    tree["parts"] = {
        name: {"kind": part.kind} | part.model_dump(exclude_unset=True)
        for name, part in spec.parts.items()
    }
    return tree


def fields_of(template: Mapping[str, Any]) -> list[Field]:
    """Return the fields that stand in a part's table."""
    found: list[Field] = []
    for item in template.values():
        if isinstance(item, Field):
            found.append(item)
        elif isinstance(item, RopeField) and isinstance(item.interleaved, Field):
            found.append(item.interleaved)
        elif isinstance(item, Mapping):
            found += fields_of(item)
    return found


def fill(template: Mapping[str, Any], values: Mapping[str, Any]) -> Tree:
    """Return a table with its fields replaced by their values."""
    result: Tree = {}
    standing = set()
    for key, item in template.items():
        if isinstance(item, Field):
            value = item.to_spec(values[item.name])
            if value == item.unless:
                continue
            result[key] = value
            standing.add(item.name)
        elif isinstance(item, With):
            if item.field in standing:
                result[key] = item.value
        elif isinstance(item, RopeField):
            way = item.interleaved
            way = values[way.name] if isinstance(way, Field) else way
            result[key] = rope.to_spec(values["rope_parameters"], way, values.get("head_dim"))
        else:
            result[key] = fill(item, values) if isinstance(item, Mapping) else item
    return result


def recover(template: Mapping[str, Any], part: Mapping[str, Any], fields: dict[str, Any]) -> None:
    """Add to `fields` what a part of a spec says of the fields in its table."""
    for key, item in template.items():
        if isinstance(item, Field):
            value = part.get(key, item.unless)
            if not isinstance(value, Mark) and item.has_word_for(value):
                fields[item.name] = item.from_spec(value)
        elif isinstance(item, RopeField) and key in part:
            fields["rope_parameters"] = found = rope.from_spec(part[key])
            if item.original is not None and ORIGINAL.name in found:
                fields[ORIGINAL.name] = found[ORIGINAL.name]
            if item.part is not None:
                fields["rope_parameters"] |= rope.part_of(part[key], part["head_dim"])
            if isinstance(item.interleaved, Field):
                fields[item.interleaved.name] = part[key]["interleaved"]
        elif isinstance(item, Mapping) and key in part:
            recover(item, part[key], fields)
