"""Which products read a value's columns, whatever carries the columns there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..ir.dims import Dim
from ..ir.graph import Node, Value
from ..ops.attention import Cached
from ..ops.elementwise import Widen
from ..ops.linear import Einsum
from ..ops.shape import Concat, Split
from .rewriter import Rewriter


@dataclass(frozen=True)
class Reader:
    """A product that sums over some of a value's columns, along one axis of a parameter."""

    node: Node
    weight: Value
    axis: int
    start: Dim
    size: Dim
    cached: bool
    """Whether a cache holds the columns on their way."""


class Unlike(Exception):
    """Something else reads the columns, or a product in a way that cannot be followed."""


@dataclass(frozen=True)
class _Columns:
    """Columns of a value, which hold some of those that are followed."""

    value: Value
    at: Dim
    size: Dim
    start: Dim
    """Which they are, of those that are followed."""
    cached: bool = False

    @property
    def whole(self) -> bool:
        return self.size == self.value.type.shape[-1]


def readers(rewriter: Rewriter, value: Value) -> list[Reader] | str:
    """The products that read a value, each with a parameter of its own; else why it is not so.

    Columns are followed through caches, joins, splits and widening.
    """
    width = value.type.row[-1]
    try:
        found = list(_follow(rewriter, _Columns(value, Dim.of(0), width, Dim.of(0))))
    except Unlike as why:
        return str(why)
    if not found:
        return f"nothing reads %{value.name}"
    weights = [reader.weight for reader in found]
    for weight in weights:
        if len(rewriter.graph.users(weight)) > 1 or weights.count(weight) > 1:
            return f"%{weight.name} is read more than once"
        for ref in rewriter.program(weight).refs():
            if ref.name in rewriter.elsewhere:
                return f"%{weight.name} is tied: another block reads {ref.name} too"
    return found


def _follow(rewriter: Rewriter, columns: _Columns) -> Iterator[Reader]:
    graph, value = rewriter.graph, columns.value
    if value in graph.outputs:
        raise Unlike(f"the block returns %{value.name}")
    for node in graph.users(value):
        operands = graph.operands(node)
        for slot, operand in enumerate(operands):
            if operand == value:
                for carried in _carried(node, operands, slot, columns):
                    yield from _follow(rewriter, carried)
                if not isinstance(node.op, Cached | Widen | Concat | Split):
                    yield from _products(rewriter, node, operands, slot, columns)


def _carried(
    node: Node, operands: tuple[Value, ...], slot: int, columns: _Columns
) -> Iterator[_Columns]:
    """Where an op that moves columns puts these."""
    match node.op:
        case Cached():
            yield replace(columns, value=node.results[0], cached=True)
        case Widen():
            yield replace(columns, value=node.results[0])
        case Concat(axis=-1):
            before = sum((v.type.row[-1] for v in operands[:slot]), Dim.of(0))
            yield replace(columns, value=node.results[0], at=before + columns.at)
        case Split(sizes=sizes, axis=-1):
            start = Dim.of(0)
            for part, size in zip(node.results, sizes, strict=True):
                first = _later(start, columns.at)
                last = _earlier(start + size, columns.at + columns.size)
                if first.size < last.size and first.probe < last.probe:
                    begins = columns.start + (first - columns.at)
                    yield _Columns(part, first - start, last - first, begins, columns.cached)
                start = start + size
        case Concat() | Split():
            raise Unlike(
                f"%{node.name} is a {node.op.name} of another axis of %{columns.value.name}"
            )


def _products(
    rewriter: Rewriter, node: Node, operands: tuple[Value, ...], slot: int, columns: _Columns
) -> Iterator[Reader]:
    """The weights that an op multiplies these columns with."""
    op, name = node.op, columns.value.name
    assert op is not None
    over: list[tuple[Value, int]] = []
    if op.multiplied and slot == 0:
        slots = [op.operand_names().index(weight) for weight in op.multiplied]
        over = [(operands[i], len(operands[i].type.shape) - 1) for i in slots]
    elif isinstance(op, Einsum) and len(operands) == 2:
        terms = op.equation.split("->")[0].split(",")
        letter, other = terms[slot][-1], terms[1 - slot]
        summed = letter not in op.equation.split("->")[1] and terms[slot].count(letter) == 1
        if summed and other.count(letter) == 1:
            over = [(operands[1 - slot], other.index(letter))]
    if not over:
        raise Unlike(f"%{node.name} reads %{name}, and is no product over it: {op.name}")
    if not columns.whole:
        raise Unlike(f"%{node.name} multiplies %{name} as a whole, of which it is a part")
    for weight, axis in over:
        param = _parameter(rewriter, weight)
        yield Reader(node, param, axis, columns.start, columns.size, columns.cached)


def _parameter(rewriter: Rewriter, weight: Value) -> Value:
    """The parameter that a product's weight is, perhaps widened."""
    node = rewriter.graph.node(weight)
    if isinstance(node.op, Widen):
        if len(rewriter.graph.users(weight)) > 1:
            raise Unlike(f"%{weight.name} is read more than once")
        (weight,) = rewriter.graph.operands(node)
    if not rewriter.is_param(weight):
        raise Unlike(f"%{weight.name} is computed, not a parameter")
    return weight


def _later(one: Dim, other: Dim) -> Dim:
    return Dim(max(one.size, other.size), max(one.probe, other.probe))


def _earlier(one: Dim, other: Dim) -> Dim:
    return Dim(min(one.size, other.size), min(one.probe, other.probe))
