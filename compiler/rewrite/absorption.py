"""Absorption: attention to what keys and values are made of, products with weights moved past it.

q . (W c + b) = (q W) . c + q . b, of which the last is the same for all slots, and a sum of
p (W c + b) over slots is W times the sum of p c, plus b where the p add up to one
(arXiv:2405.04434, section 2.1.2).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from ..ir.dims import ONE, Dim, total
from ..ir.graph import Node, Value
from ..ops.attention import Attend
from ..ops.linear import Einsum
from ..ops.shape import Concat, Split
from .columns import Columns, Step, Term, biased, columns, fresh, rows, terms
from .rewriter import Rewriter


def absorb(rewriter: Rewriter, node: Node) -> str:
    """Let one attention read what its keys and values are made of; returns why not, or nothing.

    Where all heads share what theirs are made of, they share one key and value then.
    """
    op, (q, k, v, _, *sinks) = node.op, rewriter.graph.operands(node)
    assert isinstance(op, Attend)
    keys, values = columns(rewriter.graph, k), columns(rewriter.graph, v)
    order = _Order.of(rewriter, rows(keys), rows(values))
    op = replace(op, value_in_key=op.value_in_key or order.value_in_key)
    heads = k.type.row[0]
    if reason := _unlike(keys, values, heads):
        return reason
    alone = heads if any(len(row.type.row) == 2 for row in order.keys) else ONE
    if alone == heads and len(keys) == len(values) == 1 and keys[0].plain and values[0].plain:
        made = rewriter.graph.node(k)
        return f"%{k.name} is {made.op.name if made.op else made.kind}, which nothing multiplies"
    beside = "sinks" if sinks else "the cap of scores" if op.softcap is not None else ""
    if beside and biased(keys):
        return f"a bias of %{k.name} moves the scores of all slots, but not {beside}"
    if sinks and biased(values):
        return f"a bias of %{v.name} counts less than once, since sinks take a part"
    rewriter.beside(node.results[0])
    _Absorption(rewriter, heads).attend(node, op, keys, values, order)
    width = sum(row.type.row[-1].size for row in order.keys)
    count = "one key" if alone == ONE else f"{alone.size} keys"
    rewriter.remark(node, f"{q.type.row[0].size} heads attend to {count} of {width} numbers a slot")
    return ""


def _unlike(keys: Sequence[Columns], values: Sequence[Columns], heads: Dim) -> str:
    """Why these rows and weights cannot be told apart by heads, if they cannot."""
    found = rows([*keys, *values])
    own = [row for row in found if len(row.type.row) == 2]
    shared = [row for row in found if len(row.type.row) == 1]
    if odd := [row for row in found if len(row.type.row) not in (1, 2)]:
        return f"%{odd[0].name} is {odd[0].type}, no rows of heads"
    if own and shared and heads != ONE:
        return f"each head has a %{own[0].name}, and all share %{shared[0].name}"
    for term in terms([*keys, *values]):
        lead = term.rest[:-1]
        if term.weight is not None and (
            len(lead) > 1
            or set(term.axes) - {*term.rest, term.inner}
            or term.rest[-1] not in term.axes
        ):
            return f"%{term.weight.name} makes more of %{term.row.name} than heads"
        if term.group and term.group != lead:
            return f"the heads of %{term.row.name} are not those of attention"
    return ""


@dataclass(frozen=True)
class _Order:
    """In what order the rows that keys and values are made of stand side by side."""

    keys: tuple[Value, ...]
    values: tuple[Value, ...]
    value_in_key: bool

    @classmethod
    def of(cls, rewriter: Rewriter, keys: Sequence[Value], values: Sequence[Value]) -> _Order:
        """As they lie in a cache; values first, unless that alone takes a copy of the context."""

        def place(row: Value) -> int:
            return rewriter.graph.node(row).results.index(row)

        keys, values = tuple(sorted(keys, key=place)), tuple(sorted(values, key=place))
        if not set(values) <= set(keys):
            return cls(keys, values, False)
        first = (*values, *(row for row in keys if row not in values))
        if first != keys and _split_of(rewriter, keys):
            return cls(keys, values, False)
        return cls(first, values, True)


@dataclass
class _Absorption:
    """One attention in the making."""

    rewriter: Rewriter
    groups: Dim
    """Heads of the keys and values as they were."""
    made: dict[tuple[Value, tuple[Step, ...]], tuple[Value, ...]] = field(default_factory=dict)
    """All results of the last step of a weight or bias, by what it is of and all steps."""

    def attend(
        self,
        node: Node,
        op: Attend,
        keys: Sequence[Columns],
        values: Sequence[Columns],
        order: _Order,
    ) -> None:
        graph = self.rewriter.graph
        before = {known.name for known in graph.nodes()}
        q, _, _, *rest = graph.operands(node)
        for term in terms([*keys, *values]):
            self.weight(term)
        against: dict[Value, Value] = {}
        self.query(q, keys, against)
        query = self.joined([against[row] for row in order.keys], "q")
        key = self.headed(self.joined(order.keys, "row"), "k")
        value = self.headed(self.joined(order.values, "row"), "v")
        out = self.rewriter.add(op, query, key, value, *rest, name="out")
        parts = self.parts(out, [row.type.row[-1] for row in order.values], "out")
        seen = dict(zip(order.values, parts, strict=True))
        self.rewriter.replace(node.results[0], self.result(seen, values))
        # What was taken apart and is joined again as it was is whole all along.
        graph.prune({known.name for known in graph.nodes()} - before)

    def query(self, q: Value, keys: Sequence[Columns], against: dict[Value, Value]) -> None:
        """Add to what meets each row: parts of the query times what makes keys of the row."""
        parts = self.parts(q, [part.size for part in keys], "q")
        for part, term in ((p, t) for p, c in zip(parts, keys, strict=True) for t in c.terms):
            if term.factor != 1:
                part = self.rewriter.op.scale(part, factor=term.factor)
            if term.weight is not None:
                part = self.times(part, term, term.rest[-1], term.inner, "q_latent")
            if term.made:
                self.query(part, term.made, against)
                continue
            known = against.get(term.row)
            against[term.row] = part if known is None else self.rewriter.op.add(known, part)

    def result(self, seen: Mapping[Value, Value], values: Sequence[Columns]) -> Value:
        """What attention gives of values, by what it gives of each row."""
        op, found = self.rewriter.op, []
        for part in values:
            made = []
            for term in part.terms:
                out = self.result(seen, term.made) if term.made else seen[term.row]
                if term.weight is not None:
                    out = self.times(out, term, term.inner, term.rest[-1])
                made.append(out if term.factor == 1 else op.scale(out, factor=term.factor))
            made += [
                self.each_head(self.stepped(bias.value, bias.steps), made[0])
                for bias in part.biases
            ]
            while len(made) > 1:
                made[:2] = [op.add(*made[:2])]
            found += made
        return self.joined(found, "out")

    def times(
        self, x: Value, term: Term, given: str, wanted: str, name: str | tuple[str, ...] = ()
    ) -> Value:
        """[B, T, H, given] times a weight that all heads have, or each group of them its own."""
        op, heads, axes = self.rewriter.op, x.type.row[0], term.axes
        tokens, taken = term.tokens, term.tokens + axes + term.rest + term.inner
        head = term.rest[0] if len(term.rest) > 1 else fresh(taken)
        grouped = head in axes and heads != self.groups
        if grouped:
            x = op.unflatten(x, sizes=(self.groups, heads // self.groups), axis=-2)
            head += fresh(taken)
        equation = f"{tokens}{head}{given},{axes}->{tokens}{head}{wanted}"
        names = () if grouped else name
        product: Value = self.rewriter.add(Einsum(equation), x, self.weight(term), name=names)
        if not grouped:
            return product
        flat: Value = op.flatten(product, axis=-3, name=name)
        return flat

    def weight(self, term: Term) -> Value:
        return term.row if term.weight is None else self.stepped(term.weight, term.steps)

    def stepped(self, value: Value, steps: tuple[Step, ...]) -> Value:
        """A weight or a bias after what its product went through."""
        if not steps:
            return value
        key = value, (*steps[:-1], replace(steps[-1], index=0))
        if key not in self.made:
            last, before = steps[-1], self.stepped(value, steps[:-1])
            results = self.rewriter.add(last.op, before, name=last.names)
            self.made[key] = results if isinstance(results, tuple) else (results,)
        return self.made[key][steps[-1].index]

    def each_head(self, bias: Value, out: Value) -> Value:
        """A bias for each head, where groups of heads have one each."""
        if len(bias.type.shape) == 1 or out.type.row[0] == self.groups:
            return bias
        each = self.rewriter.op.expand(bias, count=out.type.row[0] // self.groups)
        flat: Value = self.rewriter.op.flatten(each, axis=-3, name=re.sub(r"_\d+$", "", bias.name))
        return flat

    def parts(self, x: Value, sizes: Sequence[Dim], name: str) -> Sequence[Value]:
        """The columns of a value, apart: what it was joined of, if that is it."""
        if len(sizes) == 1:
            return (x,)
        node = self.rewriter.graph.node(x)
        operands = self.rewriter.graph.operands(node)
        joined = isinstance(node.op, Concat) and node.op.axis == -1
        if joined and list(sizes) == [v.type.row[-1] for v in operands]:
            return operands
        names = [f"{name}_{i}" for i in range(len(sizes))]
        found: Sequence[Value] = self.rewriter.op.split(x, sizes=tuple(sizes), name=names)
        return found

    def joined(self, values: Sequence[Value], name: str) -> Value:
        """Values side by side: a view of where they lie so already, if they do."""
        if len(values) == 1:
            return values[0]
        node = _split_of(self.rewriter, values)
        if node is None:
            if any(len(value.type.row) == 2 for value in values):
                values = [self.headed(value) for value in values]
            joined: Value = self.rewriter.op.concat(*values, name=name)
            return joined
        (whole,) = self.rewriter.graph.operands(node)
        if len(values) == len(node.results):
            return whole
        at = node.results.index(values[0])
        sides = node.results[:at], tuple(values), node.results[at + len(values) :]
        sizes = tuple(total(tuple(v.type.row[-1] for v in side)) for side in sides if side)
        parts = self.rewriter.op.split(whole, sizes=sizes, name=[name] * len(sizes))
        view: Value = parts[1 if sides[0] else 0]
        return view

    def headed(self, row: Value, name: str | tuple[str, ...] = ()) -> Value:
        """A row [B, S, L] as that of one head."""
        if len(row.type.row) == 2:
            return row
        alone: Value = self.rewriter.op.unflatten(row, sizes=(ONE, row.type.row[0]), name=name)
        return alone


def _split_of(rewriter: Rewriter, values: Sequence[Value]) -> Node | None:
    """The split that has these as neighbours among its results, in this order."""
    node = rewriter.graph.node(values[0])
    at = node.results.index(values[0])
    beside = node.results[at : at + len(values)] == tuple(values)
    return node if isinstance(node.op, Split) and node.op.axis == -1 and beside else None
