"""Which contexts are read as they lie in pages of slots, and so how large pages are."""

from __future__ import annotations

from ..errors import GraphError
from .dims import CONTEXT, Dim
from .graph import Graph, Node
from .model import Block, Model
from .reach import windows


def paged(model: Model) -> Dim | None:
    """How many slots a page has, where any context lies in pages; None: all are contiguous.

    Then all caches that are read whole lie in pages. Raises `GraphError` for pages of two sizes.
    """
    found = dict.fromkeys(
        node.op.pages()
        for block in model.blocks.values()
        for graph in block.graphs.values()
        for node in map(graph.get, lying(block, graph))
        if node is not None and node.op is not None and not node.op.stateful
    )
    if len(found) > 1:
        raise GraphError(f"pages are of {' and of '.join(map(str, found))} slots: one size for all")
    return next(iter(found), None)


def lying(block: Block, graph: Graph) -> frozenset[str]:
    """The nodes that are handed contexts in pages, and those that hand them out.

    A context is handed out as it lies where every op that reads it, or a view of it, reads pages;
    an op reads them where all its contexts are handed out so. A window of rows lies in a ring.
    """
    views, rings = views_of_caches(graph), windows(block)
    reads = {node.name: contexts(graph, node) for node in graph.nodes() if node.op}
    whole = {
        name: readers(graph, name, views)
        for name in dict.fromkeys(views.values())
        if not rings.keys() & set(_written(graph, name))
    }
    while True:
        takers = {
            node.name
            for users in whole.values()
            for node in users
            if node.op is not None and node.op.pages() is not None
            if all(views.get(value) in whole for value in reads[node.name])
        }
        left = {
            name: users
            for name, users in whole.items()
            if users and all(user.name in takers for user in users)
        }
        if left.keys() == whole.keys():
            return frozenset({*takers, *whole})
        whole = left


def views_of_caches(graph: Graph) -> dict[str, str]:
    """The values that are contexts or views of them, with the node that writes the cache."""
    found: dict[str, str] = {}
    for node in graph.nodes():
        if node.op is None:
            continue
        if node.op.stateful:
            contexts = node.results[len(node.results) - len(node.op.written) :]
            found |= {value.name: node.name for value in contexts}
        elif node.op.view:
            (of,) = graph.operands(node)
            if of.name in found:
                found |= {value.name: found[of.name] for value in node.results}
    return found


def readers(graph: Graph, writer: str, views: dict[str, str]) -> list[Node]:
    """The ops that read what a node has written, or views of it, and are no views themselves."""
    values = [graph.value(name) for name, of in views.items() if of == writer]
    found = {user.name: user for value in values for user in graph.users(value)}
    return [user for user in found.values() if user.op is not None and not user.op.view]


def contexts(graph: Graph, node: Node) -> list[str]:
    """The operands of a node that have a row for each slot."""
    return [value.name for value in graph.operands(node) if CONTEXT in value.type.shape]


def _written(graph: Graph, name: str) -> tuple[str, ...]:
    node = graph.get(name)
    return () if node is None or node.op is None else node.op.written
