"""Python expressions as values: how a kernel says what a model calls, without writing text."""

from __future__ import annotations

import keyword
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import GraphError

_PATH = re.compile(r"[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*")

# How tightly an expression binds, the tightest first.
ATOM, PRODUCT, SUM, COMPARISON, EITHER, LOOSE = range(6)


@dataclass(frozen=True)
class Code:
    """An expression of emitted Python. It is made of names, literals and operators only, so that
    no text from outside can become code."""

    text: str
    binds: int = ATOM

    def __str__(self) -> str:
        return self.text

    def __add__(self, other: Code) -> Code:
        return Code(f"{self._at(SUM)} + {other._at(PRODUCT)}", SUM)

    def __sub__(self, other: Code) -> Code:
        return Code(f"{self._at(SUM)} - {other._at(PRODUCT)}", SUM)

    def __mul__(self, other: Code | float) -> Code:
        return Code(f"{self._at(PRODUCT)} * {as_code(other)._at(ATOM)}", PRODUCT)

    def __truediv__(self, other: Code | float) -> Code:
        return Code(f"{self._at(PRODUCT)} / {as_code(other)._at(ATOM)}", PRODUCT)

    def __gt__(self, other: float) -> Code:
        return Code(f"{self._at(SUM)} > {as_code(other)._at(SUM)}", COMPARISON)

    def __or__(self, other: Code) -> Code:
        """`self or other`."""
        return Code(f"{self._at(EITHER)} or {other._at(EITHER)}", EITHER)

    def method(self, name: str, *args: Any, **keywords: Any) -> Code:
        """`self.name(args, ...)`."""
        return Code(f"{self._at(ATOM)}.{_path(name)}({_arguments(args, keywords)})")

    def given_first(self, *args: Any) -> Code:
        """`f(args, ...)`, for a call `f(...)`."""
        function, _, others = self.text.partition("(")
        return Code(f"{function}({_arguments(args, {})}, {others}")

    def handed_to(self, caller: str, *args: Any) -> Code:
        """`caller(args, f, ...)`, for a call `f(...)`."""
        function, _, others = self.text.partition("(")
        return Code(f"{_path(caller)}({_arguments((*args, name(function)), {})}, {others}")

    def __getitem__(self, items: Any) -> Code:
        parts = items if isinstance(items, tuple) else (items,)
        return Code(f"{self._at(ATOM)}[{', '.join(map(_index, parts))}]")

    def unless(self, condition: Code) -> Code:
        """`None if condition else self`."""
        return Code(f"None if {condition._at(EITHER)} else {self.text}", LOOSE)

    def is_none(self) -> Code:
        return Code(f"{self._at(SUM)} is None", COMPARISON)

    def _at(self, binds: int) -> str:
        return self.text if self.binds <= binds else f"({self.text})"


def name(path: str) -> Code:
    """A name, or a dotted path of them."""
    return Code(_path(path))


def call(function: str, *args: Any, **keywords: Any) -> Code:
    """`function(args, ...)`; an argument is Code, or a constant that becomes a literal."""
    return Code(f"{_path(function)}({_arguments(args, keywords)})")


def tuple_of(*items: Any) -> Code:
    texts = [as_code(item).text for item in items]
    if not texts:
        return Code("()")
    return Code(f"({texts[0]},)" if len(texts) == 1 else f"({', '.join(texts)})")


def dict_of(items: Mapping[Any, Any]) -> Code:
    """`{key: value, ...}`."""
    texts = [f"{as_code(key).text}: {as_code(value).text}" for key, value in items.items()]
    return Code(f"{{{', '.join(texts)}}}")


def as_code(value: Any) -> Code:
    """Code as it is, a constant as its literal; raises `GraphError` for anything else."""
    if isinstance(value, Code):
        return value
    if value is None or isinstance(value, bool | str):
        return Code(ascii(value) if not isinstance(value, str) else string(value))
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        text = repr(value).replace("e-0", "e-").replace("e+", "e")
        return Code(text, ATOM if value >= 0 else PRODUCT)
    if isinstance(value, tuple):
        return tuple_of(*value)
    if isinstance(value, Mapping):
        return dict_of(value)
    raise GraphError(f"{value!r} has no literal")


def string(value: str) -> str:
    """A string literal in double quotes, of ASCII only."""
    body = ascii(value)[1:-1]
    if ascii(value)[0] == '"':
        return f'"{body}"'
    return '"' + body.replace("\\'", "'").replace('"', '\\"') + '"'


def _arguments(args: tuple[Any, ...], keywords: dict[str, Any]) -> str:
    texts = [as_code(arg).text for arg in args]
    texts += [f"{_path(key)}={as_code(value).text}" for key, value in keywords.items()]
    return ", ".join(texts)


def _index(item: Any) -> str:
    if isinstance(item, slice):
        start = "" if item.start is None else as_code(item.start).text
        stop = "" if item.stop is None else as_code(item.stop).text
        return f"{start}:{stop}"
    return "..." if item is Ellipsis else as_code(item).text


def _path(path: str) -> str:
    if not _PATH.fullmatch(path) or any(keyword.iskeyword(word) for word in path.split(".")):
        raise GraphError(f"{path!r} is no name of Python")
    return path
