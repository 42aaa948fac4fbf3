"""Let rows of unlike lengths share one pool of pages, which attention reads as they lie."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..compiler.errors import ArchsmithError
from ..compiler.ir.dims import Dim
from ..compiler.ir.graph import Node
from ..compiler.ir.paging import contexts, readers, views_of_caches
from ..compiler.ir.reach import windows
from ..compiler.ops.attention import Attend
from ..compiler.ops.quantized_attention import QuantizedAttend
from ..compiler.rewrite.passes import StepwisePass
from ..compiler.rewrite.rewriter import Rewriter

PROBE = 2  # slots of a page in the proof, whose contexts are of few slots


@dataclass(frozen=True)
class PageCache(StepwisePass):
    """A cache takes the memory of what its rows hold, not of the longest that each may hold.

        %out = attend(%q, %k, %v, %positions)
        ->
        %out = attend(%q, %k, %v, %positions, page=64)

    Keys and values lie in pages of so many slots, and a table says which a row has. Nothing else is
    computed: a page is where rows lie, not what they are.
    """

    name = "page-cache"
    phases = ("decode",)

    page: int = 64

    def __post_init__(self) -> None:
        if self.page < 1 or self.page & (self.page - 1):
            raise ArchsmithError(
                f"pass {self.name}: a page of {self.page} slots is none; it has a power of two"
            )

    def applications(self, rewriter: Rewriter) -> Iterator[None]:
        for node in list(rewriter.graph.nodes()):
            if not isinstance(node.op, Attend | QuantizedAttend) or node.op.page is not None:
                continue
            if reason := _why_not(rewriter, node):
                rewriter.refuse(node, reason)
                continue
            rewriter.beside(node.results[0])
            op = replace(node.op, page=Dim(self.page, min(self.page, PROBE)))
            made = rewriter.add(op, *rewriter.graph.operands(node), name=node.name)
            rewriter.replace(node.results, [made])
            yield


def _why_not(rewriter: Rewriter, node: Node) -> str:
    """Why attention goes on to read rows that lie one behind the other."""
    graph, target, rings = rewriter.graph, rewriter.target, windows(rewriter.block)
    if target is not None and "traced" in target.features:
        return "contexts in pages are not traced: leave out `page-cache`"
    views = views_of_caches(graph)
    for context in contexts(graph, node):
        if context not in views:
            return f"%{context} is computed of what is cached, and is not read as it lies"
        writer = graph.node(views[context])
        if writer.op is not None and rings.keys() & set(writer.op.written):
            return "what it reads keeps a window of rows only, which takes no more with length"
        for reader in readers(graph, writer.name, views):
            if not isinstance(reader.op, Attend | QuantizedAttend):
                return f"%{reader.name} reads what %{writer.name} caches too, and reads rows"
    return ""
