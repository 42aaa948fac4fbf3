"""From a page of YAML to a Spec, or to every mistake in it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from .diagnostics import Diagnostic, SpecError, accepted, in_order, quoted
from .fields import ITEM, Scope, identifier
from .messages import message_of
from .relations import in_force
from .schema import Part, Spec, flat
from .source import KeyPath, Source, parse, read

Kinds = Mapping[str, type[Part]]


def load(
    path: str | Path,
    kinds: Kinds,
    checkpoints: Collection[str] = (),
    passes: Collection[str] = (),
) -> Spec:
    """Return the spec in a file; raise SpecError with every mistake.

    `kinds` are the parts that may be named, `checkpoints` the families and `passes` what a pipeline
    may run; without any of these two, all pass.
    """
    return _accepted(read(path), kinds, checkpoints, passes)


def loads(text: str, name: str, kinds: Kinds, checkpoints: Collection[str] = ()) -> Spec:
    """Return the spec in `text`, shown under `name`; otherwise as `load`."""
    return _accepted(parse(text, name), kinds, checkpoints)


def from_tree(tree: object, kinds: Kinds, checkpoints: Collection[str] = ()) -> Spec:
    """Return the spec that plain dicts, lists and scalars say; mistakes then have no place."""
    return _accepted(Source("spec", tree=tree), kinds, checkpoints)


def _accepted(
    source: Source, kinds: Kinds, checkpoints: Collection[str], passes: Collection[str] = ()
) -> Spec:
    spec, found = check(source, kinds, checkpoints, passes)
    if spec is None:
        raise SpecError(source, found)
    return spec


def check(
    source: Source,
    kinds: Kinds,
    checkpoints: Collection[str] = (),
    passes: Collection[str] = (),
) -> tuple[Spec | None, tuple[Diagnostic, ...]]:
    """Return the spec, None where there is an error, and all diagnostics in their order."""
    scope = _scope(source.tree, kinds, checkpoints)
    found = list(source.mistakes)
    spec = None
    try:
        spec = Spec.model_validate(source.tree, context=scope)
    except ValidationError as error:
        mistakes = (message_of(line, source, scope.models) for line in error.errors())
        found += _unsaid(mistakes, source)
    found += _clashes(source)
    found += _unrelated(source, kinds)
    found += _unknown_passes(source, passes)
    if found:
        return None, in_order(found)
    return spec, in_order(_unused(source, scope))


def _scope(tree: object, kinds: Kinds, checkpoints: Collection[str]) -> Scope:
    """Return what names may refer to: all that is written, be it right or wrong."""
    norms: dict[str, bool | None] | None = None
    if parts := _section(tree, "parts"):
        norms = {}
        for name, part in parts.items():
            model = _model(part, kinds)
            norms[name] = model.is_norm if model else None
    return Scope(kinds, norms, _section(tree, "blocks"), checkpoints)


def _section(tree: object, name: str) -> dict[str, Any] | None:
    """Return a map of the spec, None where it is missing or something else."""
    section = tree.get(name) if isinstance(tree, dict) else None
    return section if isinstance(section, dict) else None


def _model(part: object, kinds: Kinds) -> type[Part] | None:
    kind = part.get("kind") if isinstance(part, dict) else None
    return kinds.get(kind) if isinstance(kind, str) else None


def _unsaid(mistakes: Iterator[Diagnostic | None], source: Source) -> Iterator[Diagnostic]:
    """Leave out what the reading of YAML has said of the same place."""
    said = {mistake.span for mistake in source.mistakes}
    for mistake in mistakes:
        if mistake and (mistake.span is None or mistake.span not in said):
            yield mistake


def _clashes(source: Source) -> Iterator[Diagnostic]:
    """Find names that are one name in the emitted Python."""
    for section in ("parts", "blocks"):
        first: dict[str, str] = {}
        for name in _section(source.tree, section) or ():
            other = first.setdefault(identifier(name), name)
            if other != name:
                message = f"{quoted(name)} and {quoted(other)} are the same name in Python"
                help = "names differ by more than case, `-` and `_`"
                yield Diagnostic("E0214", message, source.key((section, name)), help)


def _unrelated(source: Source, kinds: Kinds) -> Iterator[Diagnostic]:
    """Check what must hold between the sizes of each part, as far as it can be read."""
    for name, part in (_section(source.tree, "parts") or {}).items():
        model = _model(part, kinds)
        if model is None:
            continue
        values = flat(model, part)
        sizes = {field: x for field, x in values.items() if type(x) is int}
        wrong: set[str] = set()
        for relation in in_force(model.relations, values):
            broken = relation.check(sizes)
            if broken is None or relation.field in wrong:
                continue
            wrong.add(relation.field)
            message, choice = broken
            place = _place(source, ("parts", name), relation.fields)
            help = f"{relation.field} is {_description(model, relation.field)}; {choice}"
            yield Diagnostic(relation.code, message, source.value(place), help)


def _place(source: Source, part: KeyPath, fields: tuple[str, ...]) -> KeyPath:
    """Return where the first of the fields that is written stands."""
    for field in fields:
        path = (*part, *field.split("."))
        if path in source.values:
            return path
    return part


def _description(model: Any, field: str) -> str:
    """Return the phrase that completes "`field` is ..."."""
    first, _, rest = field.partition(".")
    info = model.model_fields[first]
    if rest:
        inner = [info.annotation, *getattr(info.annotation, "__args__", ())]
        return _description(next(m for m in inner if hasattr(m, "model_fields")), rest)
    return info.description or "a size"


def _unknown_passes(source: Source, passes: Collection[str]) -> Iterator[Diagnostic]:
    pipeline = source.tree.get("pipeline") if isinstance(source.tree, dict) else None
    for i, name in enumerate(pipeline if isinstance(pipeline, list) and passes else ()):
        match = ITEM.fullmatch(name) if isinstance(name, str) else None
        for part in (match[1], match[4]) if match else ():
            if part is not None and part not in passes:
                message = f"no pass or pipeline is called {quoted(part)}"
                help = accepted(part, passes, "pipelines and passes")
                yield Diagnostic("E0217", message, source.value(("pipeline", i)), help)


def _unused(source: Source, scope: Scope) -> Iterator[Diagnostic]:
    for section, what in (("parts", "part"), ("blocks", "block")):
        for name in _section(source.tree, section) or ():
            if (section, name) not in scope.used:
                message = f"the {what} {quoted(name)} is used nowhere"
                place = source.key((section, name))
                yield Diagnostic("E0215", message, place, "take it out", severity="warning")
