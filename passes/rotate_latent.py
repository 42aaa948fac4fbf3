"""Turn a cached latent, so that what one of its numbers holds is spread over all."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..compiler.ir.computed import computed, rotated
from ..compiler.ir.dims import Dim
from ..compiler.ir.graph import Node, Value
from ..compiler.ir.moves import joined, sliced
from ..compiler.ir.weights import Program
from ..compiler.ops.linear import Einsum
from ..compiler.ops.norm import RmsNorm
from ..compiler.ops.shape import Split
from ..compiler.rewrite.passes import StepwisePass
from ..compiler.rewrite.readers import readers
from ..compiler.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class Rows:
    """Rows of a parameter: what a value is the product with."""

    weight: Value
    axis: int
    start: Dim
    size: Dim


@dataclass(frozen=True)
class RotateLatent(StepwisePass):
    """An orthogonal matrix R between the product that makes a latent, and those that read it.

    %c = rms_norm(einsum(%x, %down))           %c = rms_norm(einsum(%x, R down))
    %row = cached(%c)                    ->    %row = cached(%c)
    %k = einsum(%row, %up)                     %k = einsum(%row, up R^T)

    A norm without a gain commutes with R, which keeps lengths: rms(R c) = R rms(c). A few large
    numbers in each row, the same for all tokens, are then no longer there, and rows may be rounded
    to few bits (arXiv:2404.00456, section 4).
    """

    name = "rotate-latent"
    effect = "rounding"

    def applications(self, rewriter: Rewriter) -> Iterator[None]:
        for name in [node.name for node in rewriter.graph.nodes()]:
            node = rewriter.graph.get(name)
            if node is None or not isinstance(node.op, RmsNorm):
                continue
            reason = _rotate(rewriter, node)
            if reason:
                rewriter.refuse(node, reason)
            else:
                yield


def _rotate(rewriter: Rewriter, node: Node) -> str | None:
    """Rewrite one latent; returns why not, or None."""
    latent, *gain = rewriter.graph.operands(node)
    if gain:
        return (
            f"%{gain[0].name} scales it column by column, which is no longer so once it is turned"
        )
    if len(rewriter.block.graphs) > 1:
        return "its phases have unlike graphs, which share their weights and caches"
    found = readers(rewriter, node.results[0])
    if isinstance(found, str):
        return found
    if not any(reader.cached for reader in found):
        return "no cache holds it"
    if part := next((reader for reader in found if reader.size != latent.type.row[-1]), None):
        return f"%{part.node.name} reads a part of it"
    rows = _rows(rewriter, latent)
    if isinstance(rows, str):
        return rows
    program = _turned(rewriter.program(rows.weight), rows)
    if program is None:
        return f"%{rows.weight.name} is turned already"
    _put(rewriter, rows.weight, program)
    for reader in found:
        _put(rewriter, reader.weight, rotated(rewriter.program(reader.weight), reader.axis))
    size = rows.size.size
    rewriter.remark(node, f"rows of {size} numbers are turned, by weights that are made so once")
    return None


def _put(rewriter: Rewriter, weight: Value, program: Program) -> None:
    rewriter.replace(weight, rewriter.param(weight.name, program, weight.type.dtype))


def _turned(program: Program, rows: Rows) -> Program | None:
    """A program with some rows turned, or None where they are turned already."""
    none, end = Dim.of(0), program.shape[rows.axis]
    stop = rows.start + rows.size
    inner = sliced(program, rows.axis, rows.start, rows.size)
    turned = rotated(inner, rows.axis)
    if len([*computed(turned)]) < len([*computed(inner)]):
        return None
    parts = [turned]
    if rows.start != none:
        parts.insert(0, sliced(program, rows.axis, none, rows.start))
    if stop != end:
        parts.append(sliced(program, rows.axis, stop, end - stop))
    return joined(parts, rows.axis)


def _rows(rewriter: Rewriter, value: Value) -> Rows | str:
    """The rows that a value is the product with; it must be read by nothing but its norm."""
    graph = rewriter.graph
    if len(graph.users(value)) > 1 or value in graph.outputs:
        return f"%{value.name} is read by others, too"
    start, size = Dim.of(0), value.type.row[-1]
    node = graph.node(value)
    while isinstance(node.op, Split) and node.op.axis == -1:
        before = node.op.sizes[: node.results.index(value)]
        start = sum(before, start)
        (value,) = graph.operands(node)
        node = graph.node(value)
    if not isinstance(node.op, Einsum):
        return f"%{value.name} is {node.kind if node.op is None else node.op.name}, and no product"
    left, result = node.op.equation.split("->")
    terms = left.split(",")
    for weight, term in zip(graph.operands(node), terms, strict=True):
        if rewriter.is_param(weight) and term.count(result[-1]) == left.count(result[-1]) == 1:
            if len(graph.users(weight)) > 1:
                return f"%{weight.name} is read more than once"
            return Rows(weight, term.index(result[-1]), start, size)
    return f"%{value.name} is {node.op.equation}, and no product with rows of a parameter"
