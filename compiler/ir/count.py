"""Counting: how many parameters a model has, and what its cache holds for each token."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

from .cost import Sizes
from .graph import Graph
from .model import EMBED, Model, Param
from .reach import windows
from .types import BYTES
from .weights import Program


def parameters(model: Model) -> int:
    """All parameters; one that the head shares with the embedding counts once."""
    return sum(times * size(param) for _, _, param, times in each_parameter(model))


def weight_bytes(model: Model) -> int:
    """Bytes of all parameters."""
    found = each_parameter(model)
    return sum(times * BYTES[param.dtype] * size(param) for _, _, param, times in found)


def active_parameters(model: Model) -> int:
    """The parameters that serve one token: no draft's, nor those of experts it is not routed to."""
    parts = {name: parts_read(block.graph("decode"), 1) for name, block in model.blocks.items()}
    times = runs(model)
    found = each_parameter(model)
    return round(sum(times[b] * parts[b].get(name, 1) * size(p) for b, name, p, _ in found))


def each_parameter(model: Model) -> Iterator[tuple[str, str, Param, int]]:
    """Block, name, parameter and how many layers have it; what is shared is given once."""
    shared: set[Program] = {p.program for p in model.blocks[EMBED].params.values()}
    for block, times in _sums(model, model.kept).items():
        for name, param in model.blocks[block].params.items():
            if block == EMBED or param.program not in shared:
                yield block, name, param, times


def runs(model: Model) -> dict[str, int]:
    """How many times a call runs each block; what is a draft's alone, not once."""
    return _sums(model, model.schedule)


def _sums(model: Model, entries: Iterable[tuple[str, int]]) -> dict[str, int]:
    found = dict.fromkeys(model.blocks, 0)
    for name, count in entries:
        found[name] += count
    return found


def parts_read(graph: Graph, rows: int) -> dict[str, float]:
    """The part of each parameter that so many tokens are expected to need."""
    found: dict[str, float] = {}
    for node in graph.nodes():
        if node.op is None:
            continue
        operands = graph.operands(node)
        for value, part in zip(
            operands, node.op.share(rows, *(v.type for v in operands)), strict=True
        ):
            if graph.node(value).kind == "param":
                found[value.name] = max(part, found.get(value.name, 0.0))
    return found


def size(param: Param) -> int:
    return math.prod(d.size for d in param.program.shape)


def cache_bytes(model: Model) -> int:
    """Bytes that one more token costs in the caches of all layers, at long context.

    A draft has a cache of its own, and is not among them. A cache that keeps a window of rows then
    drops a row for each that it takes: it costs nothing.
    """
    kept = {name: windows(block) for name, block in model.blocks.items()}
    return sum(
        count * BYTES[rows.dtype] * math.prod(d.size for d in rows.row)
        for name, count in model.schedule
        for cache, rows in model.blocks[name].caches.items()
        if cache not in kept[name]
    )


def held_bytes(model: Model, sizes: Sizes) -> int:
    """Bytes of the caches of all rows with so much context."""
    total = 0
    for name, count in model.schedule:
        kept = windows(model.blocks[name])
        for cache, rows in model.blocks[name].caches.items():
            slots = min(sizes.context, kept[cache].size) if cache in kept else sizes.context
            row = BYTES[rows.dtype] * math.prod(axis.size for axis in rows.row)
            total += count * sizes.batch * slots * row
    return total


def moved_bytes(model: Model, phase: str, sizes: Sizes) -> float:
    """Bytes that a call moves at least, whatever computes it.

    The weights that its tokens are expected to want and the cached rows are read, its own rows are
    written; what lies between ops stays on the chip.
    """
    parts = {
        name: parts_read(block.graph(phase), sizes.rows) for name, block in model.blocks.items()
    }
    weights = sum(
        times * parts[block].get(name, 1) * BYTES[param.dtype] * size(param)
        for block, times in runs(model).items()
        if block != EMBED  # of a table, only the rows looked up, which is next to nothing
        for name, param in model.blocks[block].params.items()
    )
    earlier = Sizes(sizes.batch, sizes.tokens, sizes.context - sizes.tokens)
    return weights + held_bytes(model, earlier) + sizes.rows * cache_bytes(model)
