"""How far back a block reads its caches, and so how many of their rows it has to keep."""

from __future__ import annotations

from collections.abc import Iterator

from .dims import CONTEXT, Dim
from .graph import Graph, Node
from .model import Block


def windows(block: Block) -> dict[str, Dim]:
    """How many of the last rows of a cache are ever read, for each that is not read whole.

    Caches that one op reads together are kept alike, since it reads the same slots of each.
    """
    reads = [read for graph in block.graphs.values() for read in _reads(graph)]
    found: dict[str, Dim | None] = {}
    for _ in reads:  # a cache that widens widens those beside it, one round further each time
        for caches, reach in reads:
            others = [found[cache] for cache in caches if cache in found]
            found |= dict.fromkeys(caches, _widest([reach, *others]))
    kept = ((cache, found.get(cache)) for cache in block.caches)
    return {cache: window for cache, window in kept if window is not None}


def caches_read(graph: Graph) -> Iterator[tuple[Node, tuple[str, ...]]]:
    """The ops that read a context, with the caches that its rows come from."""
    rows: dict[str, tuple[str, ...]] = {}  # value -> the caches whose rows its rows are made of
    for node in graph.nodes():
        if node.op is None:
            continue
        operands = [cache for v in graph.operands(node) for cache in rows.get(v.name, ())]
        caches = tuple(dict.fromkeys(operands))
        if node.op.stateful:
            contexts = node.results[len(node.results) - len(node.op.written) :]
            rows |= {v.name: (c,) for v, c in zip(contexts, node.op.written, strict=True)}
            continue
        if not node.op.token_local:
            if caches:
                yield node, caches
            continue
        rows |= {value.name: caches for value in node.results}


def _reads(graph: Graph) -> Iterator[tuple[tuple[str, ...], Dim | None]]:
    """Each set of caches that are read together, and how far back; None: the whole context."""
    for node, caches in caches_read(graph):
        assert node.op is not None
        mixed = any(CONTEXT in value.type.shape for value in node.results)
        # Who reads rows that are mixed of others reaches further than either.
        yield caches, None if mixed else node.op.reach()


def _widest(reaches: list[Dim | None]) -> Dim | None:
    known = [reach for reach in reaches if reach is not None]
    if len(known) < len(reaches):
        return None
    return Dim(max(r.size for r in known), max(r.probe for r in known))
