"""What a package says of the kernels that its plan chose, and of their tiles."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..schedule.kernel import Config
from ..schedule.plan import Plan


def chosen(plan: Plan, block: str) -> list[dict[str, Any]]:
    """The kernels of a block: what each computes, in which phases, and why no other does."""
    entries: dict[str, dict[str, Any]] = {}
    for choice in plan.choices:
        if choice.block != block:
            continue
        entry: dict[str, Any] = {"op": choice.op.name, "kernel": choice.kernel.name}
        if tiles := plan.use(choice).tiles:
            entry["tiles"] = [_tile(limit, config) for limit, config in tiles]
        if choice.refusals:
            entry["refused"] = dict(choice.refusals)
        found = entries.setdefault(str(entry), {**entry, "nodes": [], "phases": []})
        for key, value in (("nodes", choice.node), ("phases", choice.phase)):
            if value not in found[key]:
                found[key].append(value)
    return list(entries.values())


def gradients(plan: Plan) -> Iterator[dict[str, Any]]:
    """The kernels of gradients: of which others' results, and with which tiles by what sizes; where
    there are none, those of the others serve both."""
    for kernel in dict.fromkeys(plan.gradients.values()):
        of = sorted({c.kernel.name for c, k in plan.compiled() if k is kernel})
        tiles = {
            kernel.key(use.op, use.operands): [_tile(*tile) for tile in use.tiles]
            for use in plan.uses(kernel)
        }
        every = [{"sizes": list(key), **t} for key in sorted(tiles) for t in tiles[key]]
        yield {"kernel": kernel.name, "of": of, "tiles": every}


def _tile(limit: int | None, config: Config) -> dict[str, Any]:
    """What calls of up to so many rows are compiled with, and whether that was measured."""
    measured = {"measured": True} if config.measured else {}
    return {"rows": limit, **config.options(), **measured}
