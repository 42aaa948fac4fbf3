"""A spec's tree as a page of YAML, laid out for reading."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

WIDTH = 110
# What YAML 1.1 or 1.2 reads as something else than a string, though it is a word.
RESERVED = frozenset(["null", "true", "false", "yes", "no", "on", "off", "y", "n", "nan", "inf"])
WORD = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
SECTIONS = ("layers", "blocks", "parts")
REMARKS = {
    "layers": "the schedule, top to bottom",
    "blocks": "a block is a list of residual steps: x = x + use(norm(x))",
}


def write(tree: Mapping[str, object], header: str = "") -> str:
    """Return `tree` as YAML 1.2: scalars first, then what holds more, an entry a line.

    `header` becomes comments above it. Reading the text gives `tree` again, floats as floats.
    """
    lines = [f"# {line}".rstrip() for line in header.splitlines()]
    for key, value in tree.items():
        if key in SECTIONS and isinstance(value, Mapping | list) and value:
            lines += ["", *_section(key, value)]
        else:
            lines += [""] * _ends_section(lines) + [_wrapped(f"{scalar(key)}: ", value)]
    return "\n".join(lines).lstrip("\n") + "\n"


def scalar(value: object) -> str:
    """Return a scalar so that every YAML reader takes it for what it is.

    Raises TypeError for what is not a scalar.
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, str):
        plain = WORD.fullmatch(value) and value.lower() not in RESERVED
        return value if plain else _quote(value)
    raise TypeError(f"a spec holds no {type(value).__name__}")


def _section(key: str, value: Mapping[str, object] | Sequence[object]) -> list[str]:
    """Return a key with its entries beneath it, their values aligned."""
    remark = f"  # {REMARKS[key]}" if key in REMARKS else ""
    lines = [f"{scalar(key)}:{remark}"]
    if isinstance(value, Mapping):
        names = [f"{scalar(name)}:" for name in value]
        width = max(map(len, names), default=0)
        pairs = zip(names, value.values(), strict=True)
        return lines + [_wrapped(f"  {name:<{width}} ", item) for name, item in pairs]
    columns = _columns(value)
    for item in value:
        if isinstance(item, Mapping) and columns:
            cells = [f"{scalar(k)}: {flow(v)}" for k, v in item.items()]
            text = " ".join(f"{cell + ',':<{columns[i] + 1}}" for i, cell in enumerate(cells[:-1]))
            lines.append("  - {" + f"{text} {cells[-1]}".strip() + "}")
        else:
            lines.append(_wrapped("  - ", item))
    return lines


def _columns(items: Sequence[object]) -> list[int]:
    """Return the widths that align the entries of alike mappings; none where they are unlike."""
    rows = [
        [f"{scalar(k)}: {flow(v)}" for k, v in x.items()] for x in items if isinstance(x, Mapping)
    ]
    if len(rows) != len(items) or len({len(row) for row in rows}) != 1:
        return []
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def flow(value: object) -> str:
    """Return any value on one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{scalar(k)}: {flow(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    return scalar(value)


def _wrapped(lead: str, value: object) -> str:
    """Return `lead` and the value, broken at commas under the bracket that holds them."""
    line = lead + flow(value)
    if len(line) <= WIDTH or not isinstance(value, Mapping | list) or not value:
        return line
    opening, closing = ("{", "}") if isinstance(value, Mapping) else ("[", "]")
    indent = " " * (len(lead) + 1)
    entries: Iterable[tuple[str, object]]
    if isinstance(value, Mapping):
        entries = [(f"{scalar(k)}: ", v) for k, v in value.items()]
    else:
        entries = [("", v) for v in value]
    lines = [lead + opening]
    for number, (name, item) in enumerate(entries):
        text = name + flow(item)
        lines[-1] += ", " if number else ""
        if number and len(lines[-1]) + len(text) + 1 > WIDTH:
            lines[-1] = lines[-1].rstrip()
            lines += _wrapped(indent + name, item).split("\n")
        else:
            lines[-1] += text
    return "\n".join(lines) + closing


def _ends_section(lines: Sequence[str]) -> bool:
    return bool(lines) and lines[-1].startswith(" ")


def _float(value: float) -> str:
    """Return a float with a point and a signed exponent, which 1.1 and 1.2 both need."""
    text = repr(value)
    mantissa, mark, exponent = text.partition("e")
    if not mark:
        return text
    mantissa = mantissa if "." in mantissa else mantissa + ".0"
    return f"{mantissa}e{int(exponent):+d}"


def _quote(text: str) -> str:
    def char(c: str) -> str:
        code = ord(c)
        if c in '"\\':
            return "\\" + c
        if 0x20 <= code < 0x7F:
            return c
        return (
            f"\\x{code:02x}"
            if code < 0x100
            else f"\\u{code:04x}"
            if code < 0x10000
            else f"\\U{code:08x}"
        )

    return '"' + "".join(map(char, text)) + '"'
