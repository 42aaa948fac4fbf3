"""Statements laid out as a person would: within 100 columns, broken at the outermost call."""

from __future__ import annotations

import re
from textwrap import wrap

WIDTH = 100


def statement(text: str, indent: int, comment: str = "") -> list[str]:
    """The lines of one statement; its comment is left out where it does not fit."""
    line = " " * indent + text
    if len(line) <= WIDTH:
        whole = f"{line}  # {comment}"
        return [whole if comment and len(whole) <= WIDTH else line]
    lines = _broken(text, indent)
    whole = f"{lines[-1]}  # {comment}"
    if comment and len(whole) <= WIDTH:
        lines[-1] = whole
    return lines


def words(name: str) -> str:
    """An identifier as words."""
    return name.replace("_", " ").strip()


def docstring(text: str, indent: int) -> tuple[str, ...]:
    """A docstring of one sentence; a long one is wrapped."""
    margin = " " * indent
    line = f'{margin}"""{text}"""'
    if len(line) <= WIDTH:
        return (line,)
    lines = wrap(f'"""{text}', WIDTH - indent, break_long_words=False, break_on_hyphens=False)
    return (*(f"{margin}{line}" for line in lines), f'{margin}"""')


def _broken(text: str, indent: int) -> list[str]:
    """Break a tuple between its items, else at the last bracket whose line fits."""
    head, value = _assigned(text)
    opening = _bracket(text, indent)
    if head and (opening is None or len(_parts(value)) > 1):
        alone = len(_parts(value)) == 1
        inside = _terms(value, indent + 4) if alone else _items(value, indent + 4)
        return [f"{' ' * indent}{head}(", *inside, f"{' ' * indent})"]
    if opening is None or len(_parts(text, " | ")) > 1:
        return _terms(text, indent)
    closing = _closing(text, opening)
    head, body, tail = text[: opening + 1], text[opening + 1 : closing], text[closing:]
    inner = indent + 4
    call = re.search(r"[\w)\]]$", text[:opening])  # else a tuple, a list or a dictionary
    if inner + len(body) <= WIDTH and not body.endswith(",") and (call or "," not in body):
        middle = [" " * inner + body]
    else:
        middle = _items(body, inner)
    end = _broken(tail, indent) if indent + len(tail) > WIDTH else [" " * indent + tail]
    return [" " * indent + head, *middle, *end]


def _assigned(text: str) -> tuple[str, str]:
    """A statement's beginning and its value; of an expression, nothing and all of it."""
    head = re.match(r"(from \S+ import|return|yield|[\w.]+(, [\w.]+)* =) ", text)
    return (head[0], text[head.end() :]) if head else ("", text)


def _items(text: str, indent: int) -> list[str]:
    """The items between brackets, each on a line of its own and with a comma."""
    lines = []
    for part in _parts(text):
        if indent + len(part) + 1 <= WIDTH:
            lines.append(" " * indent + part)
        elif len(chain := _chain(part)) > 2:
            lines += [" " * indent + link for link in chain]
        else:
            lines += _broken(part, indent)
        lines[-1] += ","
    return lines


def _chain(text: str) -> list[str]:
    """The links of a chain of calls: `x[:2]`, `.flatten(0, 1)`, `.permute(1, 0)`."""
    depth, cuts = 0, [0]
    for i, char in _outside_strings(text):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0 and char == "." and text[i - 1] in ")]":
            cuts.append(i)
    return [text[i:j] for i, j in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def _terms(text: str, indent: int) -> list[str]:
    """One expression, on a line if it fits, else an operand a line."""
    if indent + len(text) <= WIDTH:
        return [" " * indent + text]
    for mark in (" | ", " + ", " * "):
        first, *others = _parts(text, mark)
        if others:
            return [" " * indent + first, *(f"{' ' * indent}{mark[1:]}{part}" for part in others)]
    return [" " * indent + text]


def _bracket(text: str, indent: int) -> int | None:
    """Where to break: the last bracket that stands in no other and holds anything.

    What stands before it must fit on a line; if nothing does, it is the first such bracket.
    """
    depth, found = 0, list[int]()
    for i, char in _outside_strings(text):
        if char in "([{":
            if depth == 0 and text[i + 1] not in ")]}":
                found.append(i)
            depth += 1
        elif char in ")]}":
            depth = max(depth - 1, 0)  # a statement's tail begins with one
    fitting = [i for i in found if indent + i + 1 <= WIDTH]
    return fitting[-1] if fitting else next(iter(found), None)


def _closing(text: str, opening: int) -> int:
    depth = 0
    for i, char in _outside_strings(text):
        if i < opening:
            continue
        depth += (char in "([{") - (char in ")]}")
        if depth == 0:
            return i
    raise AssertionError(f"unbalanced: {text}")  # Code is made of whole expressions


def _parts(text: str, mark: str = ",") -> list[str]:
    """The items between the commas, or other marks, that stand in no bracket."""
    depth, start, parts = 0, 0, []
    for i, char in _outside_strings(text):
        depth += (char in "([{") - (char in ")]}")
        if depth == 0 and text.startswith(mark, i):
            parts.append(text[start:i].strip())
            start = i + len(mark)
    return [part for part in (*parts, text[start:].strip()) if part]


def _outside_strings(text: str) -> list[tuple[int, str]]:
    found, quoted, escaped = [], False, False
    for i, char in enumerate(text):
        if quoted:
            quoted, escaped = escaped or char != '"', char == "\\" and not escaped
        elif char == '"':
            quoted = True
        else:
            found.append((i, char))
    return found
