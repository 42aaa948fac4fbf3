"""The meaning of a graph: every op's reference in order, at the sizes or at the probes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import GraphError
from .dims import Dim, Which
from .graph import Graph, Value
from .op import Op


@dataclass(frozen=True)
class Step:
    """One node: its op at the sizes chosen, and the names of what it reads and defines."""

    op: Op | None
    operands: tuple[str, ...]
    results: tuple[tuple[Value, tuple[int | str, ...]], ...]
    """Each value, and its shape with the named axes as names."""
    kind: str
    cache: str


@dataclass(frozen=True)
class Evaluation:
    """A graph made ready to be run many times; later changes of the graph do not matter."""

    steps: tuple[Step, ...]

    @classmethod
    def of(cls, graph: Graph, which: Which) -> Evaluation:
        steps = []
        for node in graph.nodes():
            results = tuple((v, _shape(v, which)) for v in node.results)
            operands = tuple(v.name for v in graph.operands(node))
            op = None if node.op is None else node.op.at(which)
            cache = op.attributes()["cache"] if op is not None and op.stateful else ""
            steps.append(Step(op, operands, results, node.kind, cache))
        return cls(tuple(steps))

    def __call__(
        self,
        inputs: Mapping[str, Any],
        params: Mapping[str, Any],
        caches: Mapping[str, Any] | None = None,
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return all values by name, and the caches afterwards.

        `caches` maps a cache to its rows [B, capacity, ...]; None is training, where the context
        is the call itself. Raises `GraphError` where a result has not the shape of its type.
        """
        values: dict[str, Any] = {}
        after = dict(caches or {})
        named: dict[str, int] = {}
        for step in self.steps:
            if step.op is None:
                name = step.results[0][0].name
                results = ((inputs if step.kind == "input" else params)[name],)
            else:
                operands = [values[name] for name in step.operands]
                if step.cache:
                    rows = after[step.cache] if caches else None
                    result, rows = step.op.reference(*operands, rows)
                    if caches:
                        after[step.cache] = rows
                    results = (result,)
                else:
                    out = step.op.reference(*operands)
                    results = out if isinstance(out, tuple) else (out,)
            for (value, shape), result in zip(step.results, results, strict=True):
                _check_shape(value, shape, result.shape, named)
                values[value.name] = result
        return values, after


def _shape(value: Value, which: Which) -> tuple[int | str, ...]:
    return tuple(axis.at(which) if isinstance(axis, Dim) else axis for axis in value.type.shape)


def _check_shape(
    value: Value, wanted: tuple[int | str, ...], given: tuple[int, ...], named: dict[str, int]
) -> None:
    """Hold a result to its type; an axis B, T or S has one length in the whole graph."""
    if given == wanted:
        return
    fits = len(given) == len(wanted) and all(
        length == (axis if isinstance(axis, int) else named.setdefault(axis, length))
        for axis, length in zip(wanted, given, strict=True)
    )
    if not fits:
        raise GraphError(f"the reference of %{value.name} gives {given}, its type is {value.type}")
