"""The least that a token must leave in a cache for attention's keys and values to be made again."""

from __future__ import annotations

from dataclasses import dataclass

import networkx as nx

from .dims import CONTEXT
from .graph import Graph, Node, Value
from .model import Block, Model
from .reach import caches_read, windows
from .types import BYTES


@dataclass(frozen=True)
class Cut:
    """Values that together determine all that attention reads of a token."""

    values: tuple[Value, ...]
    bytes: int
    """Of one token's rows of them."""
    read: tuple[Value, ...]
    """What is read of the context, keys and values, and can be made again of them."""


def best_cache_bytes(model: Model) -> int:
    """Bytes that one more token must cost in the caches of all layers, at long context."""
    best = {name: cheapest_cut(block).bytes for name, block in model.blocks.items()}
    return sum(count * best[name] for name, count in model.schedule)


def held_bytes(block: Block) -> int:
    """Bytes that one more token leaves in a block's caches, but for those that keep a window."""
    kept = windows(block)
    rows = (Value(name, type) for name, type in block.caches.items() if name not in kept)
    return sum(map(_bytes, rows))


def cheapest_cut(block: Block) -> Cut:
    """The cheapest values from which a decoding block can make each slot's keys and values again.

    A minimum cut: vertices are ops and values, a value's capacity is its bytes a token, and what
    runs from the block's input to what is read of the context is to be separated. Behind the cut
    may lie what can be moved past attention's products: ops that are linear in what varies by
    token, a token at a time. All others, and all that feeds them, lie before it; their results may
    be cut. Of equal cuts the one nearest to attention is taken.
    """
    graph = block.graph("decode")
    kept = windows(block)
    read = [
        value
        for node, caches in caches_read(graph)
        if not any(cache in kept for cache in caches)
        for value in graph.operands(node)
        if CONTEXT in value.type.shape
    ]
    names = graph.ancestors(read)
    varying = [node for node in graph.nodes() if node.name in names and _varies(graph, node)]
    fixed = [node for node in varying if not _may_lie_behind(graph, node)]
    before = {name for node in fixed for name in graph.ancestors(node.results)}
    net: nx.DiGraph[str] = nx.DiGraph()
    net.add_nodes_from(("source", "sink"))
    for node in varying:
        if node.name in before:
            net.add_edge("source", _op(node))
        for value in node.results:
            net.add_edge(_op(node), f"{value.name} made")  # an edge without a capacity has no limit
            net.add_edge(f"{value.name} made", f"{value.name} kept", capacity=_bytes(value))
        for value in graph.operands(node):
            net.add_edge(f"{value.name} kept", _op(node))
    net.add_edges_from((f"{value.name} kept", "sink") for value in read)
    total, (left, _) = nx.minimum_cut(net, "source", "sink")
    values = (value for node in varying for value in node.results)
    cut = (v for v in values if f"{v.name} made" in left and f"{v.name} kept" not in left)
    return Cut(tuple(cut), int(total), tuple(read))


def _varies(graph: Graph, node: Node) -> bool:
    """Whether a node's results depend on tokens, and not by their positions alone."""
    inputs = {
        value.name
        for name in graph.ancestors(node.results)
        for value in graph.node(graph.value(name)).results
        if graph.node(value).kind == "input"
    }
    return bool(inputs - {"positions"})


def _may_lie_behind(graph: Graph, node: Node) -> bool:
    op = node.op
    if op is None:
        return False
    if op.stateful:  # the cache itself: it keeps each row as it is
        return True
    varying = tuple(_varies(graph, graph.node(value)) for value in graph.operands(node))
    return op.token_local and op.linear_in(varying)


def _bytes(value: Value) -> int:
    rows = value.type
    count = 1
    for axis in rows.row:
        count *= axis.size
    return BYTES[rows.dtype] * count


def _op(node: Node) -> str:
    return f"{node.name} op"
