"""Which passes run: pipelines and passes by their names, and where each of them stands."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, get_type_hints

from ..errors import ArchsmithError
from ..spec.diagnostics import accepted, quoted
from ..spec.fields import ITEM
from .passes import AnyPass

DEFAULT = "O2"


def resolve(
    what: str | Sequence[str],
    passes: Mapping[str, type[AnyPass]],
    pipelines: Mapping[str, tuple[str, ...]],
) -> list[AnyPass]:
    """The passes of a list such as `O1,a,b{option=1}`, with what each pipeline in it stands for.

    `a before b` and `a after b` put `a` beside a pass that is in the list already. Raises
    `ArchsmithError` for a name that is nothing, and for options that a pass has not.
    """
    items = _split(what) if isinstance(what, str) else what
    if not items:
        help = accepted(None, pipelines, "pipelines")
        raise ArchsmithError(f"{quoted(what)} names no pass\n  = help: {help}")
    return _all(items, passes, pipelines, ())


def written(pass_: AnyPass) -> str:
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


def _all(
    items: Sequence[str],
    passes: Mapping[str, type[AnyPass]],
    pipelines: Mapping[str, tuple[str, ...]],
    inside: tuple[str, ...],
) -> list[AnyPass]:
    """The passes of a list; `inside` are the pipelines that led to it."""
    chosen: list[AnyPass] = []
    for item in items:
        match = ITEM.fullmatch(item.strip())
        name, options, side, other = match.groups() if match else (item.strip(), None, None, None)
        if name in pipelines and options is None:
            if name in inside:
                way = " -> ".join((*inside, name))
                raise ArchsmithError(f"the pipeline {quoted(name)} has itself in it: {way}")
            made = _all(pipelines[name], passes, pipelines, (*inside, name))
        elif match and name in passes:
            made = [_one(name, options or "", passes[name])]
        else:
            help = accepted(name, [*pipelines, *passes], "pipelines and passes")
            raise ArchsmithError(f"no pass or pipeline is called {quoted(name)}\n  = help: {help}")
        at = _place(item, side, other, chosen) if side and other else len(chosen)
        chosen[at:at] = made
    return chosen


def _place(item: str, side: str, other: str, chosen: Sequence[AnyPass]) -> int:
    """Before the first pass of a name, or after the last."""
    found = [i for i, pass_ in enumerate(chosen) if pass_.name == other]
    if not found:
        help = accepted(other, dict.fromkeys(p.name for p in chosen), "passes before it")
        raise ArchsmithError(
            f"{quoted(item.strip())}: {quoted(other)} is not in the list before it\n"
            f"  = help: {help}"
        )
    return found[0] if side == "before" else found[-1] + 1


def _one(name: str, text: str, plugin: type[AnyPass]) -> AnyPass:
    options = dict(_option(plugin, part) for part in text.split(",") if part.strip())
    try:
        return plugin(**options)
    except TypeError as error:
        raise ArchsmithError(f"pass {name}: {error}") from None


def _option(plugin: type[AnyPass], text: str) -> tuple[str, Any]:
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
