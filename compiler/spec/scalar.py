"""What a plain scalar means: the core schema of YAML 1.2."""

from __future__ import annotations

import re

NULL = re.compile(r"(?:~|null|Null|NULL)?")
BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
INT = re.compile(r"[-+]?[0-9]{1,18}|0o[0-7]{1,18}|0x[0-9a-fA-F]{1,15}")
FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
NO_NUMBER = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)|0o[0-7]+|0x[0-9a-fA-F]+")


def meaning(text: str) -> bool | int | float | str | None:
    """Return the value of a plain scalar; NaN for a number that is infinite or too long."""
    if NULL.fullmatch(text):
        return None
    if BOOL.fullmatch(text):
        return text.lower() == "true"
    if INT.fullmatch(text):
        return int(text, {"0o": 8, "0x": 16}.get(text[:2], 10))
    if FLOAT.fullmatch(text):
        # An integer that INT did not take has too many digits.
        number = float("nan") if text.lstrip("+-").isdigit() else float(text)
        return number if abs(number) != float("inf") else float("nan")
    return float("nan") if NO_NUMBER.fullmatch(text) else text
