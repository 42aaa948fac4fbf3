"""Statements laid out as a person would: within 100 columns, broken at the outermost call."""

from __future__ import annotations

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


def _broken(text: str, indent: int) -> list[str]:
    """Break at the last bracket that is not within another."""
    opening = _last_bracket(text)
    if opening is None:
        return [" " * indent + text]
    closing = _closing(text, opening)
    head, body, tail = text[: opening + 1], text[opening + 1 : closing], text[closing:]
    inner = indent + 4
    if inner + len(body) <= WIDTH and not body.endswith(","):
        middle = [" " * inner + body]
    else:
        middle = []
        for part in _parts(body):
            if inner + len(part) + 1 <= WIDTH:
                middle.append(f"{' ' * inner}{part},")
            else:
                lines = _broken(part, inner)
                middle += [*lines[:-1], lines[-1] + ","]
    return [" " * indent + head, *middle, " " * indent + tail]


def _last_bracket(text: str) -> int | None:
    """Where the last bracket opens that stands in no other."""
    depth, found = 0, None
    for i, char in _outside_strings(text):
        if char in "([{":
            if depth == 0:
                found = i
            depth += 1
        elif char in ")]}":
            depth -= 1
    return found


def _closing(text: str, opening: int) -> int:
    depth = 0
    for i, char in _outside_strings(text):
        if i < opening:
            continue
        depth += (char in "([{") - (char in ")]}")
        if depth == 0:
            return i
    raise AssertionError(f"unbalanced: {text}")  # Code is made of whole expressions


def _parts(text: str) -> list[str]:
    """The items between the commas that stand in no bracket."""
    depth, start, parts = 0, 0, []
    for i, char in _outside_strings(text):
        depth += (char in "([{") - (char in ")]}")
        if char == "," and depth == 0:
            parts.append(text[start:i].strip())
            start = i + 1
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
