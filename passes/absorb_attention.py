"""Attend to what keys and values are made of, instead of making them again of the context."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..compiler.ir.dims import ONE, Dim
from ..compiler.ir.graph import Node, Value
from ..compiler.ops.attention import Attend
from ..compiler.ops.linear import Einsum
from ..compiler.ops.shape import Concat, Expand, Split
from ..compiler.rewrite.passes import Pass
from ..compiler.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class Piece:
    """Some of a key's or value's columns: a row of the context times a weight for each head."""

    row: Value
    """[B, S, L], the same for all heads."""
    size: Dim
    weight: Value | None = None
    """None: the row itself."""
    equation: str = ""
    """Of the row, the weight and the columns, in that order: btl,hnl->bthn."""
    part: tuple[Node, int] | None = None
    """The split of columns that this is a part of, where it is not all of them."""


@dataclass(frozen=True)
class AbsorbAttention(Pass):
    """One key for all heads: what multiplies the context moves to the query and to the result.

    %k = einsum(%latent, %k_up)
    %v = einsum(%latent, %v_up)
    %out = attend(%q, %k, %v)
    ->
    %q_2 = einsum(%q, %k_up)
    %out_2 = attend(%q_2, %latent, %latent)
    %out = einsum(%out_2, %v_up)

    q . (W c) = (q W) . c, and a sum of W c over slots is W times their sum (arXiv:2405.04434,
    section 2.1.2). Nothing is made again of the context then, but the products of attention are
    wider: it is for decoding, which waits for memory.
    """

    name = "absorb-attention"
    phases = ("decode",)

    def run(self, rewriter: Rewriter) -> None:
        for node in list(rewriter.graph.nodes()):
            if isinstance(node.op, Attend):
                reason = self._absorb(rewriter, node, node.op)
                if reason:
                    rewriter.refuse(node, reason)

    def _absorb(self, rewriter: Rewriter, node: Node, op: Attend) -> str:
        """Rewrite one attention; returns why not, or nothing."""
        q, k, v, *rest = rewriter.graph.operands(node)
        if q.type.shape[2] != k.type.shape[2]:
            return f"%{k.name} has {k.type.shape[2]} heads for {q.type.shape[2]} of the query"
        keys, values = pieces(rewriter, k), pieces(rewriter, v)
        if isinstance(keys, str) or isinstance(values, str):
            name, why = (k.name, keys) if isinstance(keys, str) else (v.name, values)
            return f"%{name} is no product of what all heads share: {why}"
        value = values[0]
        if len(values) > 1 or value.weight is None:
            return f"%{v.name} is not one product with a weight"
        rows = list(dict.fromkeys([value.row, *(piece.row for piece in keys)]))
        if value.row not in [piece.row for piece in keys]:
            return f"%{v.name} is made of %{value.row.name}, of which no key is"
        rewriter.beside(node.results[0])
        weights = _weights(rewriter, [*keys, value])
        query = _query(rewriter, q, keys, rows, weights)
        row = _joined(rewriter, rows)
        key = rewriter.op.unflatten(row, sizes=(ONE, row.type.row[0]), name="k")
        seen = rewriter.op.unflatten(value.row, sizes=(ONE, value.row.type.row[0]), name="v")
        op = replace(op, value_in_key=True)
        out = rewriter.add(op, query, key, seen, *rest, name="out")
        b, t, h, n, c = _letters(value)
        equation = f"{b}{t}{h}{c},{_term(value)}->{b}{t}{h}{n}"
        rewriter.replace(node.results[0], rewriter.add(Einsum(equation), out, weights[value]))
        width = sum(axis.size for axis in row.type.row)
        heads = q.type.row[0].size
        rewriter.remark(node, f"{heads} heads attend to one key of {width} numbers a slot")
        return ""


def pieces(rewriter: Rewriter, value: Value) -> list[Piece] | str:
    """A key or value [B, S, H, N] as pieces of its columns, or why it is not made of such."""
    graph = rewriter.graph
    node = graph.node(value)
    operands = graph.operands(node)
    if isinstance(node.op, Concat) and node.op.axis == -1:
        found: list[Piece] = []
        for operand in operands:
            inner = pieces(rewriter, operand)
            if isinstance(inner, str):
                return inner
            found += inner
        return found
    if isinstance(node.op, Expand):
        return [Piece(operands[0], value.type.row[-1])]
    if isinstance(node.op, Split) and node.op.axis == -1:
        inner = pieces(rewriter, operands[0])
        if isinstance(inner, str):
            return inner
        if len(inner) > 1 or inner[0].weight is None or inner[0].part is not None:
            return f"%{value.name} is a part of more than one product"
        part = (node, node.results.index(value))
        return [replace(inner[0], size=value.type.row[-1], part=part)]
    if isinstance(node.op, Einsum) and len(operands) == 2:
        return _product(rewriter, node, node.op, operands, value)
    return f"%{value.name} is {'an input' if node.op is None else node.op.name}"


def _product(
    rewriter: Rewriter, node: Node, op: Einsum, operands: Sequence[Value], value: Value
) -> list[Piece] | str:
    """A product of a row and a weight, in either order."""
    left, result = op.equation.split("->")
    for (row, weight), (x, w) in (
        (operands, left.split(",")),
        (operands[::-1], left.split(",")[::-1]),
    ):
        shared = [letter for letter in x if letter in w]
        if weight.type.row != weight.type.shape or len(x) != 3 or len(shared) != 1:
            continue
        if x[:2] == result[:2] and sorted(w) == sorted([*result[2:], *shared]):
            return [Piece(row, value.type.row[-1], weight, f"{x},{w}->{result}")]
    return f"%{node.name} is {op.equation}"


def _letters(piece: Piece) -> tuple[str, str, str, str, str]:
    """Of a piece's equation: rows, slots, heads, columns, and what is summed over."""
    left, result = piece.equation.split("->")
    b, t, h, n = list(result)
    (c,) = set(left.split(",")[0]) - {b, t}
    return b, t, h, n, c


def _term(piece: Piece) -> str:
    """The letters of a piece's weight."""
    return piece.equation.split("->")[0].split(",")[1]


def _weights(rewriter: Rewriter, found: Sequence[Piece]) -> dict[Piece, Value]:
    """Each piece's weight; one that columns were split of is split as they were, once."""
    weights: dict[Piece, Value] = {}
    parts: dict[tuple[str, Value], Sequence[Value]] = {}
    for piece in found:
        if piece.weight is None:
            continue
        if piece.part is None:
            weights[piece] = piece.weight
            continue
        node, index = piece.part
        key = node.name, piece.weight
        if key not in parts:
            assert isinstance(node.op, Split)
            *_, n, _ = _letters(piece)
            split = replace(node.op, axis=_term(piece).index(n) - len(_term(piece)))
            names = [f"{re.sub('_[0-9]+$', '', value.name)}_weight" for value in node.results]
            parts[key] = rewriter.add(split, piece.weight, name=names)
        weights[piece] = parts[key][index]
    return weights


def _query(
    rewriter: Rewriter,
    q: Value,
    keys: Sequence[Piece],
    rows: Sequence[Value],
    weights: Mapping[Piece, Value],
) -> Value:
    """The query against the rows: of each, the sum of its parts times their keys' weights."""
    against: dict[Value, Value] = {}
    for part, piece in zip(_parts(rewriter, q, keys), keys, strict=True):
        if piece in weights:
            b, t, h, n, c = _letters(piece)
            equation = f"{b}{t}{h}{n},{_term(piece)}->{b}{t}{h}{c}"
            part = rewriter.add(Einsum(equation), part, weights[piece], name="q_latent")
        known = against.get(piece.row)
        against[piece.row] = part if known is None else rewriter.op.add(known, part)
    if len(rows) == 1:
        return against[rows[0]]
    joined: Value = rewriter.op.concat(*(against[row] for row in rows), name="q")
    return joined


def _parts(rewriter: Rewriter, q: Value, keys: Sequence[Piece]) -> Sequence[Value]:
    """The query's columns as the key's pieces have them: what it was joined of, if that is it."""
    if len(keys) == 1:
        return (q,)
    node = rewriter.graph.node(q)
    sizes = tuple(piece.size for piece in keys)
    operands = rewriter.graph.operands(node)
    if isinstance(node.op, Concat) and sizes == tuple(v.type.row[-1] for v in operands):
        return operands
    names = [f"q_{i}" for i in range(len(keys))]
    parts: Sequence[Value] = rewriter.op.split(q, sizes=sizes, name=names)
    return parts


def _joined(rewriter: Rewriter, rows: Sequence[Value]) -> Value:
    """The rows side by side: what they were split of, if that is it."""
    node = rewriter.graph.node(rows[0])
    if isinstance(node.op, Split) and tuple(rows) == node.results:
        return rewriter.graph.operands(node)[0]
    if len(rows) == 1:
        return rows[0]
    joined: Value = rewriter.op.concat(*rows, name="row")
    return joined
