"""A field of a configuration: what may be in it, and what its absence means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeGuard

from ..spec.diagnostics import quoted

LARGEST = 2**31 - 1


class Mark(Enum):
    """What stands in a table where a value could."""

    REQUIRED = "a configuration without this field is incomplete"
    REFUSED = "null is not a value of this field"
    NEVER = "no value of this field is left out of the spec"


@dataclass(frozen=True)
class Same:
    """The value of another field."""

    of: str


@dataclass(frozen=True)
class Ratio:
    """One field divided by another, which must divide it."""

    of: str
    by: str


@dataclass(frozen=True)
class Field:
    """A configuration's field and the value of the spec that it stands for.

    type     `size` (an int, at least 1), `count` (at least 0), `number` (finite, above 0),
             `flag`, `word` (one of `words`), `layers` (a list of layer numbers, or of a number
             for each layer where the default is None), `kinds` (a list of `words`, one for each),
             `numbers` (a list of them, each finite and above 0)
    default  what Hugging Face's configuration class takes when the field is absent
    null     what an explicit null means to it
    unless   the component's own default: the spec leaves the value out when it is this
    words    the accepted words and what each is called in the spec
    """

    name: str
    type: str = "size"
    default: object = Mark.REQUIRED
    null: object = Mark.REFUSED
    unless: object = Mark.NEVER
    words: Mapping[str | bool, object] = field(default_factory=dict)
    most: int = LARGEST
    aliases: tuple[str, ...] = ()

    @property
    def lists_layers(self) -> bool:
        """Whether it says something of each layer, which other fields say where it is absent."""
        return self.type in ("kinds", "layers") and self.default is None

    def refusal(self, value: object) -> str | None:
        """Why `value` cannot stand in this field, as what it must be instead."""
        if self.type == "kinds":
            listed = isinstance(value, list) and all(
                isinstance(item, str) and item in self.words for item in value
            )
            return None if listed else "a list of " + ", ".join(map(quoted, self.words))
        if self.words:
            accepted = isinstance(value, (str, bool)) and value in self.words
            return None if accepted else "one of " + ", ".join(map(quoted, self.words))
        if self.type == "flag":
            return None if isinstance(value, bool) else "true or false"
        if self.type == "number":
            return None if is_positive(value) else "a number above 0"
        if self.type == "numbers":
            listed = isinstance(value, list) and all(map(is_positive, value))
            return None if listed and value else "a list of numbers above 0"
        if self.type == "layers":
            listed = isinstance(value, list) and all(is_int(item, 0, self.most) for item in value)
            return None if listed else "a list of layer numbers"
        least = 1 if self.type == "size" else 0
        return (
            None if is_int(value, least, self.most) else f"a whole number, {least} to {self.most}"
        )

    def to_spec(self, value: object) -> object:
        return self.words[value] if isinstance(value, (str, bool)) and self.words else value

    def has_word_for(self, value: object) -> bool:
        return not self.words or value in self.words.values()

    def from_spec(self, value: object) -> object:
        """Return the configuration's word for a value of the spec, of which there must be one."""
        if not self.words:
            return value
        return next(word for word, meaning in self.words.items() if meaning == value)


@dataclass(frozen=True)
class Power(Field):
    """A field of which the spec has a power: the root, the inverse, or the inverse root."""

    exponent: float = 1.0

    def to_spec(self, value: object) -> object:
        assert isinstance(value, int | float)
        return _whole(value**self.exponent)

    def from_spec(self, value: object) -> object:
        """Return the whole number whose power this is, if there is one, or the nearest number."""
        assert isinstance(value, int | float)
        base = value ** (1 / self.exponent)
        near = round(base)
        return near if near and self.to_spec(near) == value else base


@dataclass(frozen=True)
class Fixed:
    """A field understood at some of its values; `otherwise` says what the others would mean."""

    accepted: tuple[object, ...]
    otherwise: str


def _whole(value: float) -> float:
    return int(value) if float(value).is_integer() else value


def is_int(value: object, least: int = -LARGEST, most: int = LARGEST) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_positive(value: object) -> TypeGuard[float]:
    if isinstance(value, float):
        return 0 < value < math.inf
    return is_int(value, 1)
