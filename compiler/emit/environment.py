"""The one Jinja environment: templates are given typed values, and what they make is checked."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

import jinja2

from ..errors import GraphError
from .values import Allowed, Prose, Text


def render(template: str, values: Mapping[str, Any], *, python: bool = True) -> str:
    """Fill a template; raises `GraphError` where the result is not what the template says.

    Every printed value is of a kind that `values.py` declares. Python must have the syntax tree
    that the same template has with harmless strings in place of those from outside.
    """
    text = _compiled(template).render(values)
    if python:
        harmless = _compiled(template, harmless=True).render(values)
        if harmless == text:
            _verify(text)
        elif not _same_code(text, harmless):
            raise GraphError("a string from outside became code; this is a bug in a template")
    return text


@cache
def _compiled(template: str, harmless: bool = False) -> jinja2.Template:
    """A template as Jinja's compiler makes it, which takes far longer than to fill it."""
    return _environment(harmless).from_string(template)


@cache
def _environment(harmless: bool) -> jinja2.Environment:
    def finalize(value: Any) -> Any:
        if isinstance(value, bool) or not isinstance(value, Allowed):
            if isinstance(value, jinja2.Undefined):
                return value
            raise GraphError(f"a template printed {type(value).__name__} {value!r}")
        if harmless and isinstance(value, Text | Prose):
            return value.harmless()
        return value

    return jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=finalize,
        autoescape=False,  # what is emitted is no HTML; `values` make each kind safe where it goes
    )


@lru_cache(maxsize=256)
def _verify(text: str) -> None:
    """Raise `GraphError` for what is no Python; most files are the same at all sizes."""
    _parsed(text)


def _parsed(text: str) -> ast.Module:
    try:
        return ast.parse(text)
    except SyntaxError as error:
        raise GraphError(f"a template gave no Python: {error}") from None


def _same_code(text: str, harmless: str) -> bool:
    """Whether two texts differ in nothing but the values of string constants."""
    ours, theirs = _parsed(text).body, _parsed(harmless).body
    # As Python counts lines, to which a lone carriage return is the end of one.
    lines, others = (re.split(r"\r\n?|\n", told) for told in (text, harmless))
    return len(ours) == len(theirs) and all(
        # Most statements are the same text, which is the same tree.
        (one.col_offset == other.col_offset == 0 and _lines(one, lines) == _lines(other, others))
        or _alike(one, other)
        for one, other in zip(ours, theirs, strict=True)
    )


def _lines(statement: ast.stmt, lines: list[str]) -> list[str]:
    """The lines of a statement, its decorators included."""
    starts = [statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", ()))]
    return lines[min(starts) - 1 : statement.end_lineno]


def _alike(one: Any, other: Any) -> bool:
    """Whether two syntax trees differ in nothing but the values of string constants."""
    if type(one) is not type(other):
        return False
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, ast.Constant) and isinstance(one.value, str):
        return isinstance(other.value, str)
    if isinstance(one, ast.AST):
        fields = ((getattr(one, f, None), getattr(other, f, None)) for f in one._fields)
        return all(_alike(*pair) for pair in fields)
    return bool(one == other)
