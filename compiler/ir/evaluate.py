"""The meaning of a graph: every op's reference in order, at the sizes or at the probes."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import GraphError
from .dims import Dim, Which
from .graph import Graph, Value
from .op import Op


class Numbers:
    """An array that nobody can change; None stands for a cache where there is none."""

    __slots__ = ("array", "print")

    def __init__(self, array: Any) -> None:
        self.array: Any = None
        self.print: Hashable = None
        """What tells it from every array of other numbers."""
        if array is not None:
            self.array = np.asarray(array).view()
            self.array.flags.writeable = False
            content = hashlib.sha256(np.ascontiguousarray(self.array).data).digest()
            self.print = self.array.dtype.char, self.array.shape, content


@dataclass
class Results:
    """What was computed, by what it was computed from: the same again gives the same.

    Most of a graph stays what it was in a rewrite, and phases do alike what they are given alike;
    so most of what a twin would compute is known.
    """

    made: dict[Hashable, tuple[Numbers, ...]] = field(default_factory=dict)
    older: Mapping[Hashable, tuple[Numbers, ...]] = field(default_factory=dict)
    """Known from elsewhere; what is used of it is kept here as well."""

    def get(self, key: Hashable) -> tuple[Numbers, ...] | None:
        found = self.made.get(key)
        if found is None:
            found = self.older.get(key)
            if found is not None:
                self.made[key] = found
        return found

    def keep(self, key: Hashable, arrays: Iterable[Any]) -> tuple[Numbers, ...]:
        self.made[key] = tuple(map(Numbers, arrays))
        return self.made[key]


Typed = tuple[Value, tuple[int | str, ...]]
"""A value, and its shape with the named axes as names."""


@dataclass(frozen=True)
class Step:
    """One op at the sizes chosen, and what it reads and defines."""

    op: Op
    operands: tuple[str, ...]
    results: tuple[Typed, ...]
    caches: tuple[str, ...]


@dataclass(frozen=True)
class Evaluation:
    """A graph made ready to be run many times; later changes of the graph do not matter."""

    given: tuple[Typed, ...]
    """Inputs and parameters."""
    steps: tuple[Step, ...]
    takes: tuple[str, ...]
    """The inputs, in order, but for the positions."""
    returns: tuple[str, ...]

    @classmethod
    def of(cls, graph: Graph, which: Which) -> Evaluation:
        given: list[Typed] = []
        steps = []
        for node in graph.nodes():
            results = tuple((v, _shape(v, which)) for v in node.results)
            if node.op is None:
                given += results
                continue
            operands = tuple(v.name for v in graph.operands(node))
            op = node.op.at(which)
            steps.append(Step(op, operands, results, op.written))
        takes = tuple(value.name for value in graph.inputs if value.name != "positions")
        returns = tuple(value.name for value in graph.outputs)
        return cls(tuple(given), tuple(steps), takes, returns)

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
        held = None if caches is None else _numbers(caches)
        values, after = self.run(_numbers(inputs), _numbers(params), held, Results())
        return arrays(values), arrays(after)

    def run(
        self,
        inputs: Mapping[str, Numbers],
        params: Mapping[str, Numbers],
        caches: Mapping[str, Numbers] | None,
        results: Results,
    ) -> tuple[dict[str, Numbers], dict[str, Numbers]]:
        """The same, but what `results` knows is not computed again."""
        known = {**params, **inputs}
        values = {value.name: known[value.name] for value, _ in self.given}
        after = dict(caches or {})
        named: dict[str, int] = {}
        _check_shapes(self.given, tuple(values.values()), named)
        for step in self.steps:
            operands = [values[name] for name in step.operands]
            operands += (after[cache] if caches else Numbers(None) for cache in step.caches)
            key = (step.op, *[numbers.print for numbers in operands])
            found = results.get(key)
            if found is None:
                out = step.op.reference(*[numbers.array for numbers in operands])
                found = results.keep(key, out if isinstance(out, tuple) else (out,))
                _check_shapes(step.results, found[: len(found) - len(step.caches)], named)
            if caches:
                after |= zip(step.caches, found[len(step.results) :], strict=True)
            for (value, _), numbers in zip(step.results, found, strict=False):
                values[value.name] = numbers
        return values, after


def arrays(values: Mapping[str, Numbers]) -> dict[str, Any]:
    return {name: numbers.array for name, numbers in values.items()}


def _numbers(values: Mapping[str, Any]) -> dict[str, Numbers]:
    return {name: Numbers(array) for name, array in values.items()}


def _shape(value: Value, which: Which) -> tuple[int | str, ...]:
    return tuple(axis.at(which) if isinstance(axis, Dim) else axis for axis in value.type.shape)


def _check_shapes(typed: Sequence[Typed], found: Sequence[Numbers], named: dict[str, int]) -> None:
    """Hold arrays to their types; an axis B, T or S has one length in the whole graph."""
    for (value, wanted), numbers in zip(typed, found, strict=True):
        shape = numbers.array.shape
        if shape == wanted:
            continue
        fits = len(shape) == len(wanted) and all(
            length == (axis if isinstance(axis, int) else named.setdefault(axis, length))
            for axis, length in zip(wanted, shape, strict=True)
        )
        if not fits:
            raise GraphError(
                f"the reference of %{value.name} gives {shape}, its type is {value.type}"
            )
