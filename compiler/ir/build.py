"""Ops by name: `op.rms_norm(x, weight, eps=1e-6)` appends one to a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from typing import Any

from ..errors import GraphError
from .graph import Graph, Value
from .op import Op


@dataclass(frozen=True)
class Build:
    """A graph and the ops that may be appended to it, each as a method.

    Operands are values, attributes keywords; `name` is what the result is called, or the names of
    several. Returns the result, or a tuple of them where the op has several.
    """

    graph: Graph
    ops: Mapping[str, type[Op]]

    def __getattr__(self, op: str) -> Callable[..., Any]:
        make = kind(op, self.ops)

        def build(*operands: Value, name: str | Sequence[str] = (), **attributes: Any) -> Any:
            for operand in operands:
                if not isinstance(operand, Value):
                    raise GraphError(f"an operand of {op} is {operand!r}, no value of the graph")
            try:
                made = make(**attributes)
            except TypeError:
                there = ", ".join(attribute.name for attribute in fields(make)) or "none"
                given = ", ".join(attributes) or "none"
                raise GraphError(f"{op} is given attributes: {given}; it has: {there}") from None
            return append(self.graph, made, *operands, name=name)

        return build


def kind(op: str, ops: Mapping[str, type[Op]]) -> type[Op]:
    """The op of that name. Raises `GraphError` with those that have a like one."""
    if op not in ops:
        near = get_close_matches(op, ops, n=3) or sorted(ops)
        raise GraphError(f"there is no op {op}; there are {', '.join(near)}")
    return ops[op]


def append(graph: Graph, op: Op, *operands: Value, name: str | Sequence[str] = ()) -> Any:
    """Append an op; returns its result, or a tuple of them where it has several."""
    names = (name,) if isinstance(name, str) else name
    results = graph.add(op, *operands, names=names)
    return results if len(results) > 1 else results[0]
