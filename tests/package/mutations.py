"""Random damage to a checkpoint's files: to bytes, to what JSON says, and to lengths."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from random import Random
from typing import Any

TWICE, DEEP, DIGITS = "@twice@", "@deep@", "@digits@"  # what a JSON writer would not write
NUMBERS = [
    0,
    1,
    -1,
    2**31,
    2**53 + 1,
    2**63,
    2**64,
    10**300,
    0.5,
    -0.0,
    1e999,
    -1e999,
    float("nan"),
]
STRINGS = [
    *("", "a", "..", "../../x.safetensors", "/etc/passwd", "model.norm.weight", "a" * 9999),
    *("\ud800", "\u202ex", "a\x00b", "\x1b[31m", "F8_E4M3", "F64", "BOOL", "a.safetensors"),
]
HOSTILE = [None, True, *NUMBERS, *STRINGS, [], {}, [0] * 99, {"a": {"b": [{}]}}, DEEP, DIGITS]


def damaged(data: bytes, draw: Random, length: int | None = None) -> bytes:
    """Change bytes among the first `length`, one to eight times."""
    found = bytearray(data)
    for _ in range(draw.choice([1, 1, 1, 2, 4, 8])):
        at = draw.randrange(min(length or len(found), len(found)))
        match draw.randrange(5):
            case 0:
                found[at] ^= 1 << draw.randrange(8)
            case 1:
                found[at] = draw.choice(b'"{}[],:0123456789-.eE\\ \x00\xff')
            case 2:
                del found[at : at + draw.choice([1, 1, 2, 30])]
            case 3:
                found[at:at] = found[at : at + draw.choice([1, 5, 80])]
            case 4:
                found[at:at] = draw.randbytes(draw.choice([1, 3, 50]))
    return bytes(found)


def rewritten(data: bytes, draw: Random) -> bytes:
    """Change what a JSON text says, one to three times."""
    tree = json.loads(data)
    for _ in range(draw.choice([1, 1, 2, 3])):
        _edit(tree, draw)
    text = json.dumps(tree)
    text = text.replace(TWICE, "").replace(f'"{DEEP}"', "[" * 99999 + "]" * 99999)
    return text.replace(f'"{DIGITS}"', "9" * draw.choice([4000, 9999])).encode()


def cut(data: bytes, draw: Random) -> bytes:
    """Cut a safetensors file off: in its length, its header, its data; or let it go on."""
    header = 8 + int.from_bytes(data[:8], "little")
    within = draw.choice([(0, 9), (8, header), (header - 2, header + 3), (header, len(data))])
    if draw.random() < 0.1:
        return data + draw.randbytes(draw.choice([1, 8, 999]))
    return data[: draw.randrange(*within)]


def of_header(data: bytes, draw: Random, change: Callable[[bytes, Random], bytes]) -> bytes:
    """Change the header of a safetensors file, and its length with it."""
    end = 8 + int.from_bytes(data[:8], "little")
    text = change(data[8:end], draw)
    return len(text).to_bytes(8, "little") + text + data[end:]


def _edit(tree: Any, draw: Random) -> None:
    """Change one thing somewhere in a tree."""
    while True:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        if not keys:
            return
        key = draw.choice(keys)
        inner = tree[key]
        if not (isinstance(inner, dict | list) and inner and draw.random() < 0.7):
            break
        tree = inner
    other = draw.choice(keys)
    match draw.randrange(8):
        case 0 | 1:
            tree[key] = copy.deepcopy(draw.choice(HOSTILE))
        case 2:
            del tree[key]
        case 3:
            tree[key], tree[other] = tree[other], tree[key]
        case 4:
            tree[key] = copy.deepcopy(tree[other])
        case 5 if type(inner) in (int, float):
            tree[key] = draw.choice(
                [inner + 1, inner - 1, -inner, inner * 2, float(inner), str(inner)]
            )
        case 5 if isinstance(inner, list):
            inner.append(copy.deepcopy(draw.choice(HOSTILE)))
        case 6 if isinstance(tree, dict):
            tree[draw.choice([f"{TWICE}{key}", f"{TWICE}{other}", f"{key}x"])] = inner
        case 7 if isinstance(tree, dict):
            tree[draw.choice(STRINGS)] = tree.pop(key)
