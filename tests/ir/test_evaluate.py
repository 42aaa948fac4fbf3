"""Evaluation: values by name, caches, and references held to their types."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from archsmith.compiler.errors import GraphError
from archsmith.compiler.ir.build import Build
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.evaluate import Evaluation
from archsmith.compiler.ir.graph import Graph
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.plugins import Registry

X = TensorType("float32", ("B", "T", Dim(8, 3)))
POSITIONS = TensorType("int64", ("B", "T"))


@dataclass(frozen=True)
class Shorter(Op):
    """A reference that breaks its type."""

    name = "shorter"

    def infer(self, x: TensorType) -> TensorType:
        return x

    def reference(self, x: Any) -> Any:
        return x[:, 1:]


def test_sizes_and_probes(registry: Registry) -> None:
    graph = Graph()
    op = Build(graph, registry.ops)
    x = graph.input("x", X)
    graph.outputs = op.split(x, sizes=(Dim(6, 1), Dim(2, 2)), name=("a", "b"))
    for which, width, sizes in (("size", 8, (6, 2)), ("probe", 3, (1, 2))):
        given = np.arange(2 * 5 * width, dtype=float).reshape(2, 5, width)
        values, after = Evaluation.of(graph, which)({"x": given}, {})
        assert (values["a"].shape[-1], values["b"].shape[-1]) == sizes
        assert np.array_equal(np.concatenate([values["a"], values["b"]], -1), given)
        assert after == {}


def test_a_cache_is_written_at_its_positions(registry: Registry) -> None:
    graph = Graph()
    op = Build(graph, registry.ops)
    x, positions = graph.input("x", X), graph.input("positions", POSITIONS)
    graph.outputs = (op.cached(x, positions, cache="rows", name="all"),)
    evaluate = Evaluation.of(graph, "probe")
    rows = np.full((2, 4, 3), np.nan)
    given = np.arange(6.0).reshape(2, 1, 3)
    inputs = {"x": given, "positions": np.array([[0], [3]])}
    values, after = evaluate(inputs, {}, {"rows": rows})
    assert np.isnan(rows).all()
    assert np.array_equal(after["rows"][0, 0], given[0, 0])
    assert np.array_equal(after["rows"][1, 3], given[1, 0])
    assert np.isnan(after["rows"]).sum() == 2 * 3 * 3
    assert values["all"].shape == (2, 4, 3)
    values, after = evaluate(inputs, {})
    assert np.array_equal(values["all"], given)


def test_a_reference_is_held_to_its_type() -> None:
    graph = Graph()
    x = graph.input("x", X)
    graph.outputs = graph.add(Shorter(), x)
    with pytest.raises(GraphError, match=r"%shorter gives \(2, 4, 3\), its type is float32\[B, T"):
        Evaluation.of(graph, "probe")({"x": np.zeros((2, 5, 3))}, {})
    with pytest.raises(GraphError, match="%x gives"):
        Evaluation.of(graph, "probe")({"x": np.zeros((2, 5, 4))}, {})
