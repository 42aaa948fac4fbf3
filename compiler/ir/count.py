"""Counting: how many parameters a model has, and what its cache holds for each token."""

from __future__ import annotations

import math

from .model import EMBED, HEAD, Model
from .reach import windows
from .types import BYTES
from .weights import Program


def parameters(model: Model) -> int:
    """All parameters; one that the head shares with the embedding counts once."""
    runs = dict.fromkeys(model.blocks, 0)
    for name, count in model.schedule:
        runs[name] += count
    shared: set[Program] = {p.program for p in model.blocks[EMBED].params.values()}
    total = 0
    for name, block in model.blocks.items():
        for param in block.params.values():
            if name == HEAD and param.program in shared:
                continue
            total += runs[name] * math.prod(d.size for d in param.program.shape)
    return total


def cache_bytes(model: Model) -> int:
    """Bytes that one more token costs in the caches of all layers, at long context.

    A cache that keeps a window of rows then drops a row for each that it takes: it costs nothing.
    """
    kept = {name: windows(block) for name, block in model.blocks.items()}
    return sum(
        count * BYTES[rows.dtype] * math.prod(d.size for d in rows.row)
        for name, count in model.schedule
        for cache, rows in model.blocks[name].caches.items()
        if cache not in kept[name]
    )
