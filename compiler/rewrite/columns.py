"""Columns: what a key or a value is made of, as rows of the context and what multiplies them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from string import ascii_lowercase

from ..ir.dims import ONE, Dim, total
from ..ir.graph import Graph, Value
from ..ir.op import Op
from ..ir.types import TensorType
from ..ops.elementwise import Add, Scale
from ..ops.linear import Einsum
from ..ops.shape import Concat, Expand, Flatten, Split, Unbind, Unflatten


@dataclass(frozen=True)
class Step:
    """An op that a product went through, and that its weight can go through instead."""

    op: Op
    index: int = 0
    """Which of its results is meant."""
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Bias:
    """What is added for every token alike: `value` after `steps`, of this type."""

    value: Value
    type: TensorType
    steps: tuple[Step, ...] = ()


@dataclass(frozen=True)
class Term:
    """A row of the context, [B, S, L] or for each of G heads [B, S, G, L], and its weight."""

    row: Value
    rest: str
    """Letters of the axes that it makes, behind those of tokens."""
    weight: Value | None = None
    """None: the row is meant as it is."""
    steps: tuple[Step, ...] = ()
    axes: str = ""
    """Letters of the weight's axes after the steps."""
    inner: str = ""
    """The letter that is summed over: the row's last axis."""
    tokens: str = ""
    group: str = ""
    """The letter of the row's heads, where it has them."""
    factor: float = 1.0
    made: tuple[Columns, ...] = ()
    """What the row is made of itself."""


@dataclass(frozen=True)
class Columns:
    """Some of a value's last axis: a sum of terms and of biases."""

    size: Dim
    terms: tuple[Term, ...]
    biases: tuple[Bias, ...] = ()

    @property
    def plain(self) -> bool:
        """Whether rows are meant as they are, so that nothing can be moved."""
        return not self.biases and all(t.weight is None and t.factor == 1 for t in self.terms)


def columns(graph: Graph, value: Value) -> tuple[Columns, ...]:
    """What a value [B, S, ...] is made of, as far back as ops are linear in a token alone.

    Where another op made it, it is a row itself.
    """
    node = graph.node(value)
    operands = graph.operands(node)
    made: tuple[Columns, ...] | None = None
    if isinstance(node.op, Einsum):
        made = _product(graph, node.op, operands, value)
    elif isinstance(node.op, Concat) and node.op.axis == -1:
        made = tuple(part for operand in operands for part in columns(graph, operand))
    elif isinstance(node.op, Add):
        made = _sum(graph, *operands)
    elif isinstance(node.op, Scale | Split | Unbind | Unflatten | Flatten | Expand):
        names = () if node.anonymous else tuple(f"{_stem(v.name)}_weight" for v in node.results)
        step = Step(node.op, node.results.index(value), names)
        made = _moved(columns(graph, operands[0]), step)
    if made is None:
        rest = ascii_lowercase[: len(value.type.row)]
        return (Columns(value.type.row[-1], (Term(value, rest, group=rest[:-1]),)),)
    return (replace(made[0], size=value.type.row[-1]),) if len(made) == 1 else made


def rows(parts: Sequence[Columns]) -> tuple[Value, ...]:
    """The rows that columns are made of in the end, each once."""
    return tuple(dict.fromkeys(term.row for term in terms(parts) if not term.made))


def terms(parts: Sequence[Columns]) -> tuple[Term, ...]:
    """All terms, each before those that its row is made of."""
    return tuple(t for part in parts for term in part.terms for t in (term, *terms(term.made)))


def biased(parts: Sequence[Columns]) -> bool:
    """Whether there is a bias in them, or in what their rows are made of."""
    return any(part.biases or any(biased(t.made) for t in part.terms) for part in parts)


def fresh(taken: str) -> str:
    """A letter that is none of these."""
    return next(letter for letter in ascii_lowercase if letter not in taken)


def _product(
    graph: Graph, op: Einsum, operands: Sequence[Value], value: Value
) -> tuple[Columns, ...] | None:
    """A product of a row and a weight, in either order and in any letters."""
    left, result = op.equation.split("->")
    if len(operands) != 2:
        return None
    given = list(zip(operands, left.split(","), strict=True))
    for (row, x), (weight, w) in (given, given[::-1]):
        summed = [letter for letter in x if letter in w and letter not in result]
        group = x[2:-1]
        fits = _fixed(weight) and len(summed) == 1 and x[:2] == result[:2] and x[-1] == summed[0]
        fits = fits and len({*x}) == len(x) and len({*w}) == len(w) and group in ("", result[2:3])
        if fits and {*result[2:], *summed} == {*w, *group}:
            made = columns(graph, row)
            itself = made[0].plain and made[0].terms[0].row == row
            term = Term(row, result[2:], weight, (), w, x[-1], x[:2], group)
            term = term if itself else replace(term, made=made)
            return (Columns(value.type.row[-1], (term,)),)
    return None


def _sum(graph: Graph, x: Value, y: Value) -> tuple[Columns, ...] | None:
    """A sum with a bias, or of two values that are made of rows in the same columns."""
    made = columns(graph, x)
    sizes = tuple(part.size for part in made)
    if _fixed(y):
        if len(made) == 1:
            return (replace(made[0], biases=(*made[0].biases, Bias(y, y.type))),)
        split = Split(sizes)
        types = split.types(y.type)
        return tuple(
            replace(part, biases=(*part.biases, Bias(y, types[i], (Step(split, i),))))
            for i, part in enumerate(made)
        )
    others = columns(graph, y)
    if all(part.plain for part in (*made, *others)) or sizes != tuple(p.size for p in others):
        return None  # the sum of two rows as they are is narrower than both
    return tuple(
        Columns(a.size, a.terms + b.terms, a.biases + b.biases)
        for a, b in zip(made, others, strict=True)
    )


def _moved(parts: tuple[Columns, ...], step: Step) -> tuple[Columns, ...] | None:
    """Columns after an op on them that their weights can go through instead."""
    op = step.op
    if len(parts) > 1 and not isinstance(op, Scale | Expand):
        last = isinstance(op, Split) and op.axis == -1
        return _some(parts, op.sizes, step.index) if last else None  # type: ignore[attr-defined]
    found = []
    for part in parts:
        moved = [term for t in part.terms if (term := _through(t, step)) is not None]
        biases = [bias for b in part.biases if (bias := _biased(b, step)) is not None]
        if len(moved) < len(part.terms) or len(biases) < len(part.biases):
            return None
        found.append(Columns(part.size, tuple(moved), tuple(biases)))
    return tuple(found)


def _through(term: Term, step: Step) -> Term | None:
    """A term whose weight went through an op, if it has the axes that the op is of."""
    op, rest, axes = step.op, term.rest, term.axes
    if isinstance(op, Scale):
        return replace(term, factor=term.factor * op.factor)
    taken = rest + axes + term.inner + term.tokens
    if isinstance(op, Expand):
        return replace(term, rest=rest[:-1] + fresh(taken) + rest[-1])
    assert isinstance(op, Split | Unbind | Unflatten | Flatten)
    if term.weight is None:  # a row as it is: it may be that of one head
        alone = isinstance(op, Unflatten) and op.axis == -1 and op.sizes[:-1] == (ONE,)
        return replace(term, rest=fresh(taken) + rest) if alone and len(rest) == 1 else None
    old = rest[op.axis :][: 1 + isinstance(op, Flatten)]
    new = old[:1]
    if isinstance(op, Unbind):
        new = ""
    elif isinstance(op, Unflatten):
        new = ""
        for _ in op.sizes:
            new += fresh(taken + new)
    if old not in axes or (term.group and term.group in old):
        return None
    at = axes.index(old) - len(axes)
    return replace(
        term,
        rest=rest.replace(old, new),
        axes=axes.replace(old, new),
        steps=(*term.steps, replace(step, op=replace(op, axis=at))),
    )


def _biased(bias: Bias, step: Step) -> Bias | None:
    """A bias after an op on what it is added to, of which it may lack the first axes."""
    op, have = step.op, len(bias.type.shape)
    within, beyond = True, False
    if isinstance(op, Expand):
        within, beyond = have > 1, have == 1
    elif isinstance(op, Split | Unbind | Unflatten | Flatten):
        within, beyond = have >= -op.axis, have < -op.axis - isinstance(op, Flatten)
    if within:
        return Bias(bias.value, op.types(bias.type)[step.index], (*bias.steps, step))
    return bias if beyond else None


def _some(parts: Sequence[Columns], sizes: Sequence[Dim], index: int) -> tuple[Columns, ...] | None:
    """A part of several columns, if it begins and ends where some of them do."""
    left, taken = list(parts), list[Columns]()
    for size in sizes[: index + 1]:
        taken = left[:1]
        while taken != left and total(tuple(part.size for part in taken)).size < size.size:
            taken = left[: len(taken) + 1]
        if not taken or total(tuple(part.size for part in taken)) != size:
            return None
        left = left[len(taken) :]
    return tuple(taken)


def _fixed(value: Value) -> bool:
    """Whether a value is the same for every token: a weight, or what weights make."""
    return value.type.row == value.type.shape


def _stem(name: str) -> str:
    """A value's name without the number that tells it from others."""
    return re.sub(r"_\d+$", "", name)
