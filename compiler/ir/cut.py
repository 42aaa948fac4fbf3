"""The least that a token must leave in a cache for attention's keys and values to be made again."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

import networkx as nx

from .dims import CONTEXT, TOKENS
from .graph import Graph, Node, Value
from .model import Block, Model
from .reach import caches_read, windows
from .types import BYTES


@dataclass(frozen=True)
class Cut:
    """Values that together determine all that some attentions read of a token."""

    values: tuple[Value, ...]
    read: tuple[Value, ...]
    """What is read of the context, keys and values, and can be made again of them."""
    readers: tuple[str, ...]
    """The nodes that read it."""
    held: int
    """Bytes of one token's rows in the caches that are read now."""

    @property
    def bytes(self) -> int:
        """Of one token's rows of the values."""
        return sum(map(_bytes, self.values))


def best_cache_bytes(model: Model) -> int:
    """Bytes that one more token must cost in the caches of all layers, at long context."""
    best = {
        name: sum(cut.bytes for cut in cheapest_cuts(block)) for name, block in model.blocks.items()
    }
    return sum(count * best[name] for name, count in model.schedule)


def cheapest_cuts(block: Block) -> tuple[Cut, ...]:
    """The cheapest values from which a decoding block can make each slot's keys and values again.

    A minimum cut: vertices are ops and values, a value's capacity is its bytes a token, and what
    runs from the block's input to what is read of the context is to be separated. Behind the cut
    may lie what can be moved past attention's products: ops that are linear in what varies by
    token, a token at a time. All others, and all that feeds them, lie before it; their results may
    be cut. Of equal cuts the one nearest to attention is taken.

    It is one cut for all attentions, so that what two of them need is kept once; then it is taken
    apart, into those that have nothing of it and no cache in common.
    """
    graph = block.graph("decode")
    kept = windows(block)
    reads = [
        (node, caches)
        for node, caches in caches_read(graph)
        if not any(cache in kept for cache in caches)
    ]
    read = [value for node, _ in reads for value in _context(graph, node)]
    names = graph.ancestors(read)
    varying = [node for node in graph.nodes() if node.name in names and _varies(graph, node)]
    before = _with_all_that_feeds(graph, (n for n in varying if not _may_lie_behind(graph, n)))
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
    _, (left, _) = nx.minimum_cut(net, "source", "sink")
    values = [
        value
        for node in varying
        for value in node.results
        if f"{value.name} made" in left and f"{value.name} kept" not in left
    ]
    return tuple(_parts(block, graph, reads, values))


def _parts(
    block: Block,
    graph: Graph,
    reads: Iterable[tuple[Node, tuple[str, ...]]],
    values: Collection[Value],
) -> Iterable[Cut]:
    """A cut, for each group of attentions that have a part of it or a cache in common."""
    groups: list[tuple[list[Node], set[str], set[Value]]] = []
    for node, names in reads:
        own = {v for value in _context(graph, node) for v in made_of(graph, value, values)}
        group = [node], set(names), own
        for other in [g for g in groups if g[1] & group[1] or g[2] & group[2]]:
            groups.remove(other)
            group = other[0] + group[0], other[1] | group[1], other[2] | group[2]
        groups.append(group)
    for nodes, caches, own in groups:
        rows = [Value(name, type) for name, type in block.caches.items() if name in caches]
        yield Cut(
            tuple(value for value in values if value in own),
            tuple(value for node in nodes for value in _context(graph, node)),
            tuple(node.name for node in nodes),
            sum(map(_bytes, rows)),
        )


def made_of(graph: Graph, value: Value, values: Collection[Value]) -> set[Value]:
    """The values of a cut that this one is made of."""
    if value in values:
        return {value}
    operands = graph.operands(graph.node(value))
    return {found for operand in operands for found in made_of(graph, operand, values)}


def _context(graph: Graph, node: Node) -> tuple[Value, ...]:
    """What a node reads of the context."""
    return tuple(value for value in graph.operands(node) if CONTEXT in value.type.shape)


def _with_all_that_feeds(graph: Graph, nodes: Iterable[Node]) -> set[str]:
    """The names of nodes and of those that they are computed from, but for what attention reads of
    the context: that can be made again, and its result be none the wiser."""
    found: set[str] = set()
    todo = list(nodes)
    while todo:
        node = todo.pop()
        if node.name in found:
            continue
        found.add(node.name)
        mixes = node.op is not None and not node.op.token_local and not node.op.stateful
        past = _context(graph, node) if mixes else ()
        todo += [graph.node(value) for value in graph.operands(node) if value not in past]
    return found


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
    if op.keeps:  # the cache itself
        return True
    operands = graph.operands(node)
    varying = tuple(_varies(graph, graph.node(value)) for value in operands)
    # What is of the call's tokens, though of their positions alone, is not of the context's.
    called = any(
        TOKENS in value.type.shape and not varies
        for value, varies in zip(operands, varying, strict=True)
    )
    return op.token_local and not called and op.linear_in(varying)


def _bytes(value: Value) -> int:
    rows = value.type
    count = 1
    for axis in rows.row:
        count *= axis.size
    return BYTES[rows.dtype] * count


def _op(node: Node) -> str:
    return f"{node.name} op"
