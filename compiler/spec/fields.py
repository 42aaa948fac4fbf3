"""The types that a spec's fields have, and what the names in them may refer to."""

from __future__ import annotations

import keyword
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Field,
    GetJsonSchemaHandler,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, PydanticCustomError

from .diagnostics import accepted, quoted

MAX_SIZE = 2**31
# Blocks around the layers.
RESERVED = ("embed", "head", "final_norm", "draft_embed", "draft_norm", "loss")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}", re.ASCII)
ITEM = re.compile(
    rf"({NAME.pattern})\s*(?:\{{([^{{}}]*)\}})?(?:\s+(before|after)\s+({NAME.pattern}))?", re.ASCII
)
"""A pass or pipeline of a pipeline, its options, and the pass that it stands before or after."""


@dataclass(frozen=True)
class Scope:
    """What the names of one spec may refer to, and what its validation has met so far."""

    kinds: Mapping[str, type[BaseModel]]
    norms: Mapping[str, bool | None] | None  # part -> is it a norm; None where that is unknown
    blocks: Collection[str] | None
    checkpoints: Collection[str]
    used: set[tuple[str, str]] = field(default_factory=set)  # ("parts" or "blocks", name)
    models: dict[int, type[BaseModel]] = field(default_factory=dict)  # identity of a dict -> model


@dataclass(frozen=True)
class SizeMark:
    """Marks an integer as a size: a dimension, or the number of a model's pieces."""


def mistake(code: str, message: str, help: str | None = None, at: str | None = None) -> Exception:
    """Return what a validator raises; `at` is a key below the value that it looks at."""
    return PydanticCustomError(code, "{message}", {"message": message, "help": help, "at": at})


def identifier(name: str) -> str:
    """Return what a name is called in Python."""
    return name.replace("-", "_").lower()


def _word(value: str) -> str:
    if not NAME.fullmatch(value):
        help = "a name is a letter, then letters, digits, `_` and `-`, at most 64 of them"
        raise mistake("E0206", f"{quoted(value)} is not a name", help)
    return value


def _name(value: str) -> str:
    _word(value)
    if keyword.iskeyword(identifier(value)) or keyword.iskeyword(value):
        raise mistake("E0206", f"{quoted(value)} is a word of Python", "choose another name")
    return value


def _item(value: str) -> str:
    if not ITEM.fullmatch(value):
        help = (
            "an item is a name, perhaps with options: `a`, `a{size=4}`, `a before b`, `a after b`"
        )
        raise mistake("E0206", f"{quoted(value)} is no item of a pipeline", help)
    return value


def _unreserved(value: str) -> str:
    if identifier(value) in RESERVED:
        message = f"{quoted(value)} is the name of a block that every model has, or may have"
        raise mistake("E0206", message, "choose another name")
    return value


def _part(norm: bool) -> Callable[[str, ValidationInfo], str]:
    def check(value: str, info: ValidationInfo) -> str:
        scope = info.context
        if not isinstance(scope, Scope) or scope.norms is None:
            return value
        if value not in scope.norms:
            help = accepted(value, scope.norms, "parts")
            raise mistake("E0207", f"no part is called {quoted(value)}", help)
        scope.used.add(("parts", value))
        if norm and scope.norms[value] is False:
            norms = [name for name, is_norm in scope.norms.items() if is_norm]
            help = accepted(None, norms, "norms among the parts")
            raise mistake("E0209", f"the part {quoted(value)} is not a norm", help)
        return value

    return check


def _block(value: str, info: ValidationInfo) -> str:
    scope = info.context
    if isinstance(scope, Scope) and scope.blocks is not None:
        if value not in scope.blocks:
            help = accepted(value, scope.blocks, "blocks")
            raise mistake("E0207", f"no block is called {quoted(value)}", help)
        scope.used.add(("blocks", value))
    return value


def _checkpoint(value: str, info: ValidationInfo) -> str:
    scope = info.context
    if isinstance(scope, Scope) and scope.checkpoints and value not in scope.checkpoints:
        help = accepted(value, scope.checkpoints, "families")
        raise mistake("E0216", f"no family is called {quoted(value)}", help)
    return value


def _listed(value: object) -> object:
    return (value,) if isinstance(value, str) else value


class _OneOrMoreJson:
    """Shows in JSON Schema that a single item need not be in a list."""

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        listed = handler(schema)
        return {"oneOf": [listed["items"], listed]}


T = TypeVar("T")

Whole = Annotated[int, Field(ge=1, le=MAX_SIZE)]
"""An integer of at least one that is no size."""
Size = Annotated[Whole, SizeMark()]
"""A size of at least one."""
Count = Annotated[int, Field(ge=0, le=MAX_SIZE), SizeMark()]
"""A size that may be zero."""
Positive = Annotated[float, Field(gt=0)]
"""A finite number above zero."""
Amount = Annotated[float, Field(ge=0)]
"""A finite number, zero or more."""

_WORD = WithJsonSchema({"type": "string", "pattern": f"^{NAME.pattern}$"})
Name = Annotated[str, AfterValidator(_name), _WORD]
"""A name that the spec gives: of itself, a part or a block."""
Item = Annotated[
    str, AfterValidator(_item), WithJsonSchema({"type": "string", "pattern": f"^{ITEM.pattern}$"})
]
"""A pass or a pipeline, and where it stands."""
NewBlockName = Annotated[str, AfterValidator(_word), AfterValidator(_unreserved), _WORD]
"""The name that the spec gives to a block: it is only ever a part of names, so `global` will do."""
PartName = Annotated[str, AfterValidator(_part(norm=False)), _WORD]
"""The name of one of the spec's parts."""
NormName = Annotated[str, AfterValidator(_part(norm=True)), _WORD]
"""The name of a part that is a norm."""
BlockName = Annotated[str, AfterValidator(_block), _WORD]
"""The name of one of the spec's blocks."""
Checkpoint = Annotated[str, AfterValidator(_name), AfterValidator(_checkpoint), _WORD]
"""The name of a model family whose tensors the weights are called after."""

Several = Annotated[tuple[T, ...], Field(strict=False, min_length=1)]
"""A list of at least one."""
OneOrMore = Annotated[Several[T], BeforeValidator(_listed), _OneOrMoreJson()]
"""One item, or a list of them; a tuple once read."""
