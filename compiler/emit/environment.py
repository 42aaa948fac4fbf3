"""The one Jinja environment: templates are given typed values, and what they make is checked."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from typing import Any

import jinja2

from ..errors import GraphError
from .values import Allowed, Prose, Text


def render(template: str, values: Mapping[str, Any], *, python: bool = True) -> str:
    """Fill a template; raises `GraphError` where the result is not what the template says.

    Every printed value is of a kind that `values.py` declares. Python must have the syntax tree
    that the same template has with harmless strings in place of those from outside.
    """
    text = _environment().from_string(template).render(values)
    if python:
        harmless = _environment(harmless=True).from_string(template).render(values)
        if _skeleton(text) != _skeleton(harmless):
            raise GraphError("a string from outside became code; this is a bug in a template")
    return text


def _environment(harmless: bool = False) -> jinja2.Environment:
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


def _skeleton(text: str) -> str:
    """The syntax tree with every string constant erased."""
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise GraphError(f"a template gave no Python: {error}") from None
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.dump(tree)
