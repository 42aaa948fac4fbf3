"""Mistakes with a place: what a diagnostic is, and how it is shown to a person."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Literal

from ..errors import ArchsmithError

LINE_BREAK = re.compile(r"\r\n|\r|\n")
# What may move a cursor, colour a terminal, break a line or reorder text where it is shown.
HARMFUL = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)
LINE_WIDTH = 100


@dataclass(frozen=True)
class Span:
    """A stretch of one line: `line` and `column` count characters from 1."""

    line: int
    column: int
    length: int = 1


@dataclass(frozen=True)
class Diagnostic:
    """One mistake: `code` names a page of `archsmith explain`, `help` says what is accepted."""

    code: str
    message: str
    span: Span | None = None
    help: str | None = None
    severity: Literal["error", "warning"] = "error"


@dataclass(frozen=True)
class Listing:
    """A text that was read, and the name it is shown under."""

    name: str
    text: str = ""

    def line(self, number: int) -> str:
        """Return line `number`, counted from 1; empty past the end."""
        return self.lines[number - 1] if 0 < number <= len(self.lines) else ""

    @cached_property
    def lines(self) -> tuple[str, ...]:
        """The text line by line, without the breaks."""
        return tuple(LINE_BREAK.split(self.text))


class SpecError(ArchsmithError):
    """All the mistakes of one file, in the order of their places."""

    def __init__(self, listing: Listing, diagnostics: Iterable[Diagnostic]) -> None:
        self.listing = listing
        self.diagnostics = in_order(diagnostics)
        super().__init__(render(listing, self.diagnostics))

    def render(self) -> str:
        """Return the text that a person reads."""
        return render(self.listing, self.diagnostics)


def in_order(diagnostics: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    """Sort by place in the file; what has no place comes first."""

    def place(found: Diagnostic) -> tuple[int, int]:
        return (found.span.line, found.span.column) if found.span else (0, 0)

    return tuple(sorted(diagnostics, key=place))


def render(listing: Listing, diagnostics: Iterable[Diagnostic]) -> str:
    """Show each diagnostic with its line and carets, a blank line between two."""
    return "\n\n".join(_render(listing, found) for found in diagnostics)


def _render(listing: Listing, found: Diagnostic) -> str:
    lines = [f"{found.severity}[{found.code}]: {escape(found.message)}"]
    gutter = " "
    if found.span is None:
        lines.append(f" --> {escape(listing.name)}")
    else:
        line, column = found.span.line, found.span.column
        gutter = " " * len(str(line))
        shown, carets = _excerpt(listing.line(line), found.span)
        lines += [
            f"{gutter}--> {escape(listing.name)}:{line}:{column}",
            f"{gutter} |",
            f"{line} | {shown}".rstrip(),
            f"{gutter} | {carets}",
        ]
    if found.help:
        lines.append(f"{gutter} = help: {escape(found.help)}")
    return "\n".join(lines)


def _excerpt(line: str, span: Span) -> tuple[str, str]:
    """Return the line and its carets, clipped around them and free of control characters."""
    start = min(span.column - 1, len(line))
    stop = min(start + span.length, max(len(line), start + 1))
    left = max(0, min(start - LINE_WIDTH // 2, len(line) - LINE_WIDTH))
    cells = [escape(c) if c != "\t" else " " for c in line[left : left + LINE_WIDTH]]
    before, after = ("..." if left else ""), ("..." if left + LINE_WIDTH < len(line) else "")
    offset = len(before) + sum(map(_width, cells[: start - left]))
    carets = sum(map(_width, cells[start - left : stop - left]))
    return before + "".join(cells) + after, " " * offset + "^" * max(carets, 1)


def _width(text: str) -> int:
    """Return the columns that `text` takes on a terminal."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def escape(text: str) -> str:
    """Return `text` on one line, without characters that a terminal would obey."""
    return HARMFUL.sub(lambda found: ascii(found.group())[1:-1], text)


def quoted(value: object) -> str:
    """Return a user's value for a message: in backticks, short, on one line."""
    if isinstance(value, bool) or value is None:
        text = {True: "true", False: "false", None: "null"}[value]
    else:
        text = str(value)
    return f"`{escape(text if len(text) <= 60 else text[:57] + '...')}`"


def did_you_mean(word: str, options: Iterable[str]) -> str | None:
    """Return the option that was probably meant."""
    return next(iter(get_close_matches(word, sorted(options), n=1)), None)


def accepted(word: object, options: Iterable[str], what: str) -> str:
    """Return a help that guesses what was meant, or else lists the `options`."""
    known: Sequence[str] = sorted(options)
    guess = did_you_mean(word, known) if isinstance(word, str) else None
    if guess:
        return f"did you mean {quoted(guess)}?"
    if not known:
        return f"there are no {what}"
    listed = ", ".join(known[:20]) + (", ..." if len(known) > 20 else "")
    return f"{what}: {listed}"
