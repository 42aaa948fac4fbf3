"""A config.json read as data: its fields, and where in the file each stands."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from ..spec.diagnostics import LINE_BREAK, Diagnostic, Listing, Span, SpecError, quoted
from ..spec.source import KeyPath, Source

MOST_BYTES = 1 << 20
MOST_DEPTH = 32
MOST_DIGITS = 40
TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s"{}\[\],:]+')


def read_config(path: Path) -> Source:
    """Read `path`, a config.json or the folder that holds one, as data alone.

    The result's `tree` is the dict of fields. Raises SpecError for what is not there, not JSON, not
    an object, too large or too deep; for a field given twice; and for numbers that JSON lacks.
    """
    if path.is_dir():
        path = path / "config.json"
    return parse_config(_read_text(path), path.name)


def parse_config(text: str, name: str = "config.json") -> Source:
    """Parse the text of a configuration; `name` is what messages call it. Raises SpecError."""
    listing = Listing(name, text)
    try:
        fields = json.loads(text, parse_int=_integer)
    except json.JSONDecodeError as error:
        place = _place(text, error.pos)
        found = Diagnostic("E0302", f"not JSON: {error.msg.lower()}", place)
        raise SpecError(listing, [found]) from None
    except RecursionError:
        raise _too_deep(listing, Span(1, 1)) from None
    if not isinstance(fields, dict):
        found = Diagnostic("E0302", "a configuration is an object: `{...}`", Span(1, 1))
        raise SpecError(listing, [found])
    keys, values = _scan(listing)
    return Source(name, text, fields, keys, values)


def _read_text(path: Path) -> str:
    listing = Listing(path.name)
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        found = Diagnostic("E0301", f"cannot read the configuration: {reason}")
        raise SpecError(listing, [found]) from None
    if len(data) > MOST_BYTES:
        found = Diagnostic("E0301", f"the configuration is larger than {MOST_BYTES >> 20} MiB")
        raise SpecError(listing, [found])
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        place = _place(data[: error.start].decode("utf-8"), error.start)
        found = Diagnostic("E0301", "the configuration is not UTF-8 text", place)
        raise SpecError(Listing(path.name, data.decode("utf-8", "replace")), [found]) from None


def _integer(text: str) -> int | float:
    return int(text) if len(text) <= MOST_DIGITS else math.inf


def _scan(listing: Listing) -> tuple[dict[KeyPath, Span], dict[KeyPath, Span]]:
    """Return the places of the names and of the values of a JSON text, by path.

    Raises SpecError for values nested too deep, a name given twice, and numbers without a value.
    """
    keys: dict[KeyPath, Span] = {}
    values: dict[KeyPath, Span] = {}
    path: list[str | int] = []  # one entry an open bracket: the name or index of its current value
    named = [True]  # for each open bracket, whether the next token is a value
    line, start, seen = 1, 0, 0
    for token in TOKEN.finditer(listing.text):
        for newline in LINE_BREAK.finditer(listing.text, seen, token.start()):
            line, start = line + 1, newline.end()
        seen, text = token.start(), token.group()
        span = Span(line, seen - start + 1, len(text))
        if text in "}]":
            path.pop()
            named.pop()
        elif text == ",":
            last = path[-1]
            path[-1] = last + 1 if isinstance(last, int) else last
            named[-1] = isinstance(last, int)
        elif text == ":":
            named[-1] = True
        elif not named[-1]:
            path[-1] = json.loads(text)
            if tuple(path) in keys:
                found = Diagnostic("E0302", f"{quoted(path[-1])} is given twice", span)
                raise SpecError(listing, [found])
            keys[tuple(path)] = span
        else:
            values[tuple(path)] = span
            if text in "{[":
                if len(path) == MOST_DEPTH:
                    raise _too_deep(listing, span)
                path.append("" if text == "{" else 0)
                named.append(text == "[")
            elif text[0] not in '"tfn' and not _is_finite(text):
                found = Diagnostic(
                    "E0302", f"{quoted(text)} is not a number that can be used", span
                )
                raise SpecError(listing, [found])
    return keys, values


def _is_finite(text: str) -> bool:
    return len(text) <= MOST_DIGITS and math.isfinite(float(text))


def _too_deep(listing: Listing, span: Span) -> SpecError:
    found = Diagnostic("E0302", f"values are nested more than {MOST_DEPTH} deep", span)
    return SpecError(listing, [found])


def _place(text: str, position: int) -> Span:
    breaks = list(LINE_BREAK.finditer(text, 0, position))
    start = breaks[-1].end() if breaks else 0
    return Span(len(breaks) + 1, position - start + 1)
