"""The blocks of a spec as plain dicts: their schedule, and what tells one from another."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

LONGEST_CYCLE = 16  # layers after which a schedule may begin anew


def runs(layers: Sequence[str]) -> list[dict[str, Any]]:
    """Return the entries of a spec's `layers`: one where blocks alternate, else one a run."""
    found = [{"repeat": len(list(run)), "block": name} for name, run in groupby(layers)]
    for period in range(2, min(len(layers) // 2, LONGEST_CYCLE) + 1):
        cycle = list(layers[:period])
        if len(found) > 2 and all(name == cycle[i % period] for i, name in enumerate(layers)):
            return [{"repeat": len(layers), "block": cycle}]
    return found


def kinds(steps: Sequence[Mapping[str, Any]], parts: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return what a block is, whatever its parts are called."""
    return tuple((key, *(parts[name]["kind"] for name in names)) for key, names in named(steps))


def sights(steps: Sequence[Mapping[str, Any]], parts: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return which parts of a block have a window, and which know positions."""
    used = [parts[name] for _, names in named(steps) for name in names]
    return tuple(("window" in part, "rope" in part) for part in used)


def named(steps: Sequence[Mapping[str, Any]]) -> list[tuple[str, Sequence[str]]]:
    """Return the parts that each key of a block's steps names."""
    return [
        (key, [names] if isinstance(names, str) else names)
        for step in steps
        for key, names in step.items()
        if key != "scale"
    ]
