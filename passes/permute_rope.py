"""Turn halves of a head instead of neighbours, by another order of weight rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise

from ..compiler.ir.dims import Dim, product, total
from ..compiler.ir.graph import Graph, Node, Value
from ..compiler.ir.weights import Program
from ..compiler.ops.attention import Attend, Cached
from ..compiler.ops.position import Rope
from ..compiler.ops.shape import Concat, Expand, Split, Unflatten
from ..compiler.rewrite.passes import Pass
from ..compiler.rewrite.rewriter import Rewriter
from ..compiler.rewrite.sources import ZERO, Columns, Source, even_first, sources


@dataclass(frozen=True)
class Turned:
    """The columns of a value that a rope of neighbours turned."""

    rope: str
    start: Dim
    end: Dim

    def shifted(self, by: Dim) -> Turned:
        return replace(self, start=self.start + by, end=self.end + by)

    def within(self, start: Dim, end: Dim) -> bool:
        inside = self.start - start, end - self.end
        return all(min(rest.size, rest.probe) >= 0 for rest in inside)


Parts = tuple[Turned, ...]


@dataclass(frozen=True)
class PermuteRope(Pass):
    """A rope of halves, which reads and writes in one piece, for a rope of neighbours.

    %q_2 = rope(%q, interleaved=true)        %q_2 = rope(%q, interleaved=false)
    %k_2 = rope(%k, interleaved=true)   ->   %k_2 = rope(%k, interleaved=false)

    With P the order of even columns before odd ones, a rope of neighbours is P^T, a rope of halves,
    P. The product of a query and a key does not change where both have the same P in the same
    columns, so P^T is left out, and P moves to the rows of weights, with the norms and biases
    between.
    """

    name = "permute-rope"

    def run(self, rewriter: Rewriter) -> None:
        graph = rewriter.graph
        found, stays = _plan(graph)
        if len(rewriter.block.graphs) > 1:  # what one phase writes to a cache, another reads
            stays = dict.fromkeys(found, "its phases have unlike graphs, and share their caches")
        for name, reason in stays.items():
            rewriter.refuse(name, reason)
        moved = {name: behind for name, behind in found.items() if name not in stays}
        programs: dict[Value, Program] = {}
        for source in chain.from_iterable(moved.values()):
            program = programs.get(source.param, rewriter.program(source.param))
            programs[source.param] = even_first(program, source.axis, source.columns)
        for name in moved:
            rewriter.beside(graph.value(name))
            operands = graph.operands(graph.node(name))
            rewriter.replace(graph.value(name), rewriter.add(Rope(interleaved=False), *operands))
        for param, program in programs.items():
            rewriter.replace(param, rewriter.param(param.name, program, param.type.dtype))


def _plan(graph: Graph) -> tuple[dict[str, list[Source]], dict[str, str]]:
    """The ropes of neighbours with the weights behind each, and which of them must stay and why."""
    turned, stays = _flow(graph)
    found: dict[str, list[Source]] = {}
    attends: list[set[str]] = []
    for node in graph.nodes():
        operands = graph.operands(node)
        if isinstance(node.op, Rope) and node.op.interleaved:
            x = operands[0]
            weights = sources(graph, x, node.name, Columns(ZERO, x.type.row[-1]))
            found[node.name] = weights if isinstance(weights, list) else []
            if isinstance(weights, str):
                stays.setdefault(node.name, weights)
        if isinstance(node.op, Attend):
            q, k = (turned.get(value, ()) for value in operands[:2])
            attends.append({part.rope for part in (*q, *k)})
            if [(t.start, t.end) for t in q] != [(t.start, t.end) for t in k]:
                reason = f"the query is turned in {_said(q)}, the key in {_said(k)}"
                stays = dict.fromkeys(attends[-1], reason) | stays
    for name in found:
        if not any(name in here for here in attends):
            stays.setdefault(name, "it turns no query and no key")
    for _ in attends:  # what one attention keeps, another that shares a part of it keeps too
        for here in attends:
            kept = next((name for name in found if name in here and name in stays), None)
            if kept is not None:
                stays = dict.fromkeys(here, f"%{kept} stays, which it meets") | stays
    return found, {name: stays[name] for name in found if name in stays}


def _flow(graph: Graph) -> tuple[dict[Value, Parts], dict[str, str]]:
    """Which columns of each value are turned, and by whom a rope's are seen, where they are.

    Attention does not see them in a query and a key: it asks for their product only.
    """
    turned: dict[Value, Parts] = {}
    seen: dict[str, str] = {}
    for node in graph.nodes():
        operands = graph.operands(node)
        new = _handed_on(node, operands, turned)
        turned |= new or {}
        reads = operands[2:] if isinstance(node.op, Attend) else operands
        for value in reads if new is None else ():
            for part in turned.get(value, ()):
                seen.setdefault(part.rope, f"%{value.name} is read by %{node.name}")
    for value in graph.outputs:
        for part in turned.get(value, ()):
            seen.setdefault(part.rope, f"%{value.name} is returned by the block")
    return turned, seen


def _handed_on(
    node: Node, operands: Sequence[Value], turned: Mapping[Value, Parts]
) -> dict[Value, Parts] | None:
    """The turned columns of a node's results, where it does nothing to its operands' but that."""
    parts = [turned.get(value, ()) for value in operands]
    result = node.results[0]
    match node.op:
        case Rope(interleaved=True) if not any(parts):
            return {result: (Turned(node.name, ZERO, operands[0].type.row[-1]),)}
        case Expand() | Cached():
            return {result: parts[0]}
        case Unflatten(sizes, axis=-1) if product(sizes) == sizes[-1]:
            return {result: parts[0]}
        case Concat(axis=-1):
            widths = [value.type.row[-1:] or (ZERO,) for value in operands]
            starts = [total((ZERO, *(w for (w,) in widths[:i]))) for i in range(len(widths))]
            shifted = zip(parts, starts, strict=True)
            return {result: tuple(t.shifted(start) for part, start in shifted for t in part)}
        case Split(sizes, axis=-1) if parts[0]:
            ends = [total((ZERO, *sizes[:i])) for i in range(len(sizes) + 1)]
            cut = [
                tuple(t.shifted(ZERO - a) for t in parts[0] if t.within(a, b))
                for a, b in pairwise(ends)
            ]
            whole = sum(map(len, cut)) == len(parts[0])  # none is cut in two
            return dict(zip(node.results, cut, strict=True)) if whole else None
    return None


def _said(parts: Parts) -> str:
    """The columns in words."""
    found = [f"{part.start.size} to {(part.end - 1).size}" for part in parts]
    return f"columns {' and '.join(found)}" if found else "none"
