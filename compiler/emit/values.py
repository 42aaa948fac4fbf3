"""The only values that templates are given: each kind can be nothing but what it says."""

from __future__ import annotations

import json
import keyword
import re
from dataclasses import dataclass

from ..errors import GraphError
from ..schedule.code import Code, string

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_CONTROL = re.compile(r"[^\x20-\x7e]")


@dataclass(frozen=True)
class Name:
    """An identifier of Python."""

    text: str

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.text) or keyword.iskeyword(self.text):
            raise GraphError(f"{self.text!r} is no name of Python")

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Text:
    """A string from outside, as a literal of Python."""

    text: str

    def __str__(self) -> str:
        return string(self.text)

    def harmless(self) -> Text:
        return Text("x")


@dataclass(frozen=True)
class Prose:
    """A string from outside in a comment, a docstring or Markdown: printable ASCII, no quotes."""

    text: str

    def __str__(self) -> str:
        return re.sub(r"[\"'`\\<>]", "?", _CONTROL.sub("?", self.text))

    def harmless(self) -> Prose:
        return Prose("x")


@dataclass(frozen=True)
class Source:
    """Lines of code, made of `Code` and indented to where they stand."""

    lines: tuple[str, ...]

    def __str__(self) -> str:
        return "\n".join(self.lines)


@dataclass(frozen=True)
class Json:
    """A value as JSON, keys sorted: for files that are data."""

    value: object

    def __str__(self) -> str:
        return json.dumps(self.value, indent=2, sort_keys=True, ensure_ascii=True)


Allowed = Name | Text | Prose | Source | Json | Code | int | float
