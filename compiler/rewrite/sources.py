"""Columns of a value in another order, by another order of entries of the weights behind it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..ir.dims import Dim, product, total
from ..ir.graph import Graph, Value
from ..ir.moves import flattened, joined, sliced, swapped, unflattened
from ..ir.weights import Program
from ..ops.elementwise import Add
from ..ops.linear import Einsum
from ..ops.norm import LayerNorm, RmsNorm
from ..ops.shape import Split, Unflatten

ZERO = Dim.of(0)


@dataclass(frozen=True)
class Columns:
    """`size` columns from `start`, or in each head of so many columns those of `head`."""

    start: Dim
    size: Dim
    width: Dim = ZERO
    """Of one head."""
    head: Columns | None = None


@dataclass(frozen=True)
class Source:
    """A parameter, and the entries along one axis of it that are some columns of a value."""

    param: Value
    axis: int
    columns: Columns


def sources(graph: Graph, value: Value, reader: str, columns: Columns) -> list[Source] | str:
    """The parameters by whose order a value's columns get another one, or why there are none.

    Nothing may read those columns but the node `reader`, nor the parameters but what is on the way:
    a product, and norms, biases and splits after it.
    """
    found: list[Source] = []
    while True:
        node, operands = graph.node(value), graph.operands(graph.node(value))
        others = [user.name for user in graph.users(value) if user.name != reader]
        if others or value in graph.outputs:
            who = f"read by %{others[0]}" if others else "returned by the block"
            return f"%{value.name} is also {who}"
        behind: Value | None = operands[0] if operands else None
        here: list[Source] = []
        match node.op:
            case Einsum(equation):
                behind, here = None, _weights(equation, operands, columns)
            case RmsNorm() | LayerNorm():
                here = [Source(of, 0, columns) for of in operands[1:]]
            case Add() if graph.node(operands[1]).kind == "param":  # a bias, over all tokens
                here = [Source(operands[1], len(operands[1].type.shape) - 1, columns)]
            case Split(sizes, axis=-1):
                before = sizes[: node.results.index(value)]
                columns = replace(columns, start=total((columns.start, *before)))
            case Unflatten(sizes, axis=-1):
                columns = Columns(ZERO, product(sizes), sizes[-1], columns)
            case _:
                return f"%{value.name} is made by {node.kind if node.op is None else node.op.name}"
        for source in here:
            if graph.node(source.param).kind != "param":
                return f"%{source.param.name} is computed, not a parameter"
            if len(graph.users(source.param)) > 1:
                return f"%{source.param.name} is read more than once"
        found += here
        if behind is None:
            return found or f"%{value.name} is no product with one weight"
        value, reader = behind, node.name


def even_first(program: Program, axis: int, columns: Columns) -> Program:
    """A weight with the even ones of some entries along an axis before the odd ones."""
    end = columns.start + columns.size
    cuts = ((ZERO, columns.start), (columns.start, columns.size), (end, program.shape[axis] - end))
    before, part, after = (sliced(program, axis, *cut) if cut[1] != ZERO else None for cut in cuts)
    assert part is not None  # heads and pairs are never none
    if columns.head is None:
        pairs = unflattened(part, axis, (columns.size // 2, Dim.of(2)))
        part = flattened(swapped(pairs, axis), axis)
    else:
        heads = unflattened(part, axis, (columns.size // columns.width, columns.width))
        part = flattened(even_first(heads, axis + 1, columns.head), axis)
    return joined([some for some in (before, part, after) if some is not None], axis)


def _weights(equation: str, operands: tuple[Value, ...], columns: Columns) -> list[Source]:
    """The operand of a product that alone has the axis of its columns."""
    left, result = equation.split("->")
    letter, terms = result[-1], left.split(",")
    having = [i for i, term in enumerate(terms) if letter in term]
    if len(having) != 1 or result.count(letter) + terms[having[0]].count(letter) != 2:
        return []
    return [Source(operands[having[0]], terms[having[0]].index(letter), columns)]
