"""Ops by name: `op.rms_norm(x, weight, eps=1e-6)` appends one to a graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
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
        if op not in self.ops:
            raise GraphError(f"there is no op {op}")

        def build(*operands: Value, name: str | Sequence[str] = (), **attributes: Any) -> Any:
            return append(self.graph, self.ops[op](**attributes), *operands, name=name)

        return build


def append(graph: Graph, op: Op, *operands: Value, name: str | Sequence[str] = ()) -> Any:
    """Append an op; returns its result, or a tuple of them where it has several."""
    names = (name,) if isinstance(name, str) else name
    results = graph.add(op, *operands, names=names)
    return results if len(results) > 1 else results[0]
