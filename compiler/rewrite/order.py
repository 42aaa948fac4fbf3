"""Which passes run: a pipeline by its name, a list of passes, or a file that holds one."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from ..errors import ArchsmithError
from ..spec.diagnostics import accepted, quoted
from .passes import ModelPass, Pass

DEFAULT = "O2"
_ITEM = re.compile(r"\s*([a-z][a-z0-9-]*)\s*(?:\{([^}]*)\})?\s*")


def resolve(
    what: str | Sequence[str],
    passes: Mapping[str, type[Pass | ModelPass]],
    pipelines: Mapping[str, tuple[str, ...]],
) -> list[Pass | ModelPass]:
    """The passes of a pipeline such as `O1`, or of a list such as `a,b{option=1}`.

    Raises `ArchsmithError` for a name that is neither, and for options that a pass has not.
    """
    if isinstance(what, str) and what in pipelines:
        return [_one(item, passes, pipelines) for item in pipelines[what]]
    items = _split(what) if isinstance(what, str) else what
    if not items:
        help = accepted(None, pipelines, "pipelines")
        raise ArchsmithError(f"{quoted(what)} names no pass\n  = help: {help}")
    return [_one(item, passes, pipelines) for item in items]


def written(pass_: Pass | ModelPass) -> str:
    """A pass as an item of a pipeline, from which `resolve` makes it again: `a{option=1}`."""
    fields = {f.name: f for f in dataclasses.fields(pass_)}
    given = [
        f"{key}={str(value).lower() if isinstance(value, bool) else value}"
        for key, value in pass_.options().items()
        if value != fields[key].default
    ]
    return pass_.name + (f"{{{','.join(given)}}}" if given else "")


def _split(text: str) -> list[str]:
    """Items between the commas that stand in no braces."""
    return [item for item in re.split(r",(?![^{]*\})", text) if item.strip()]


def _one(
    item: str,
    passes: Mapping[str, type[Pass | ModelPass]],
    pipelines: Mapping[str, tuple[str, ...]],
) -> Pass | ModelPass:
    match = _ITEM.fullmatch(item)
    name = match[1] if match else item.strip()
    if match is None or name not in passes:
        help = accepted(name, [*pipelines, *passes], "pipelines and passes")
        raise ArchsmithError(f"no pass or pipeline is called {quoted(name)}\n  = help: {help}")
    plugin = passes[name]
    options = dict(_option(plugin, text) for text in (match[2] or "").split(",") if text.strip())
    try:
        return plugin(**options)
    except TypeError as error:
        raise ArchsmithError(f"pass {name}: {error}") from None


def _option(plugin: type[Pass | ModelPass], text: str) -> tuple[str, Any]:
    """`name=value`, of the type that the pass's field has."""
    key, equals, value = (part.strip() for part in text.partition("="))
    fields = [f.name for f in dataclasses.fields(plugin)]
    if not equals or key not in fields:
        have = ", ".join(fields) or "none"
        raise ArchsmithError(f"pass {plugin.name} has no option {quoted(key)}; it has {have}")
    kind = get_type_hints(plugin)[key]
    try:
        return key, {"true": True, "false": False}[value] if kind is bool else kind(value)
    except (KeyError, TypeError, ValueError):
        name = getattr(kind, "__name__", str(kind))
        raise ArchsmithError(f"pass {plugin.name}: {key} is no {name}: {quoted(value)}") from None
