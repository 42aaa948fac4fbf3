"""The graph: single definitions, replacement, names, and an order that insertion does not sway."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from archsmith.compiler.errors import GraphError
from archsmith.compiler.ir.build import Build
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.graph import Graph, Value
from archsmith.compiler.ir.lines import print_graph
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.plugins import Registry

X = TensorType("float32", ("B", "T", Dim(8, 3)))
WEIGHT = TensorType("float32", (Dim(8, 3),))


@pytest.fixture
def graph() -> Graph:
    return Graph()


@pytest.fixture
def op(graph: Graph, registry: Registry) -> Build:
    return Build(graph, registry.ops)


def lines(graph: Graph) -> list[str]:
    return [line.split(" : ")[0] for line in print_graph(graph)]


def state(graph: Graph) -> list[object]:
    """All that can be asked of a graph, read anew."""
    return [
        (node, graph.operands(node), [[user.name for user in graph.users(v)] for v in node.results])
        for node in graph.nodes()
    ] + [graph.inputs, graph.params, graph.outputs]


def test_a_value_is_defined_once(graph: Graph) -> None:
    graph.input("x", X)
    with pytest.raises(GraphError, match="%x is defined twice"):
        graph.input("x", X)


def test_a_name_is_an_identifier(graph: Graph, op: Build) -> None:
    x = graph.input("x", X)
    for name in ("X", "1x", "x y", "x;import os", "", "é"):
        with pytest.raises(GraphError, match="is no name of a value"):
            graph.input(name, X)
    with pytest.raises(GraphError, match="is no name of a value"):
        graph.rename(x.name, "X")


def test_operands_are_values_of_the_graph(graph: Graph, op: Build) -> None:
    x = graph.input("x", X)
    with pytest.raises(GraphError, match="%y is no value of this graph"):
        op.add(x, Value("y", X))
    with pytest.raises(GraphError, match="%x is no value of this graph"):
        op.scale(Value("x", TensorType("float64", X.shape)), factor=2.0)


def test_an_unknown_op_and_too_few_names(graph: Graph, op: Build) -> None:
    x = graph.input("x", X)
    with pytest.raises(GraphError, match="there is no op subtract"):
        op.subtract(x, x)
    with pytest.raises(GraphError, match="split has 2 results, but 1 names"):
        op.split(x, sizes=(Dim(4, 1), Dim(4, 2)), name=("a",))


def test_names_that_are_taken_get_a_number(graph: Graph, op: Build) -> None:
    x = graph.input("x", X)
    first, second = op.add(x, x), op.add(x, x)
    pieces = op.split(x, sizes=(Dim(4, 1), Dim(4, 2)), name=("add", "add"))
    names = [value.name for value in (first, second, *pieces)]
    assert names == ["add", "add_2", "add_3", "add_4"]


def test_a_parameter_is_one_node_however_often_it_is_asked_for(graph: Graph) -> None:
    weight = graph.param("w", WEIGHT)
    assert graph.param("w", WEIGHT) is weight or graph.param("w", WEIGHT) == weight
    assert graph.params == (weight,)
    with pytest.raises(GraphError, match="w is already param"):
        graph.param("w", X)
    graph.input("x", X)
    with pytest.raises(GraphError, match="x is already input"):
        graph.param("x", X)


def test_users_and_operands(graph: Graph, op: Build) -> None:
    x = graph.input("x", X)
    square = op.mul(x, x)
    (a, b) = op.split(x, sizes=(Dim(4, 1), Dim(4, 2)), name=("a", "b"))
    joined = op.concat(b, a)
    assert [user.name for user in graph.users(x)] == [square.name, "a"]
    assert graph.operands(graph.node(square)) == (x, x)
    assert graph.operands(graph.node(joined)) == (b, a)
    assert [user.name for user in graph.users(a)] == [joined.name]
    assert graph.ancestors([square]) == {"x", square.name}


def test_replace_points_users_and_outputs_at_the_new_value(graph: Graph, op: Build) -> None:
    x = graph.input("x", X)
    y = op.scale(x, factor=2.0, name="y")
    z = op.add(y, y, name="z")
    graph.outputs = (y, z)
    graph.replace([y], [op.add(x, x)])
    assert lines(graph) == ["%x = input", "%y = add(%x, %x)", "%z = add(%y, %y)", "return %y, %z"]


def test_replace_leaves_what_the_new_value_comes_from(graph: Graph, op: Build) -> None:
    """No circle: the new value may read the old one."""
    x = graph.input("x", X)
    y = op.scale(x, factor=2.0, name="y")
    z = op.add(y, x, name="z")
    graph.outputs = (z,)
    graph.replace([y], [op.softcap(y, cap=3.0)])
    assert lines(graph) == [
        "%x = input",
        "%y = scale(%x, factor=2.0)",
        "%softcap = softcap(%y, cap=3.0)",
        "%z = add(%softcap, %x)",
        "return %z",
    ]


def test_replace_one_of_several_results(graph: Graph, op: Build) -> None:
    x = graph.input("x", X)
    a, b = op.split(x, sizes=(Dim(4, 1), Dim(4, 2)), name=("a", "b"))
    graph.outputs = (op.concat(a, b, name="out"),)
    graph.replace([b], [op.scale(b, factor=2.0)])
    assert lines(graph)[2:] == [
        "%scale = scale(%b, factor=2.0)",
        "%out = concat(%a, %scale)",
        "return %out",
    ]


def test_replace_wants_the_same_type(graph: Graph, op: Build) -> None:
    x = graph.input("x", TensorType("bfloat16", X.shape))
    y = op.scale(x, factor=2.0)
    graph.outputs = (y,)
    with pytest.raises(GraphError, match="its replacement float32"):
        graph.replace([y], [op.widen(x)])


def test_a_replacement_that_is_refused_changes_nothing(graph: Graph, op: Build) -> None:
    """Not even where the first of several values could have been replaced."""
    x = graph.input("x", TensorType("bfloat16", X.shape))
    y, z = op.scale(x, factor=2.0, name="y"), op.scale(x, factor=3.0, name="z")
    graph.outputs = (op.add(y, z, name="out"),)
    new = op.add(x, x, name="new"), op.widen(x, name="wide")
    before = state(graph)
    with pytest.raises(GraphError, match="its replacement float32"):
        graph.replace([y, z], new)
    assert state(graph) == before


def test_prune_keeps_inputs_and_drops_what_nothing_needs(graph: Graph, op: Build) -> None:
    x, positions = graph.input("x", X), graph.input("positions", TensorType("int64", ("B", "T")))
    op.mul(x, graph.param("w", WEIGHT), name="dead")
    graph.outputs = (op.add(x, x, name="y"),)
    assert graph.prune() == ["w", "dead"]
    assert graph.inputs == (x, positions)
    assert graph.params == ()
    with pytest.raises(GraphError, match="no value %dead"):
        graph.value("dead")


def test_rename_moves_every_result_of_a_node(graph: Graph, op: Build) -> None:
    x = graph.input("x", X)
    a, b = op.split(x, sizes=(Dim(4, 1), Dim(4, 2)), name=("a", "b"))
    graph.outputs = (op.concat(b, a, name="out"),)
    graph.rename("a", "first")
    graph.rename("b", "second")
    graph.rename("x", "stream")
    assert lines(graph) == [
        "%stream = input",
        "%first, %second = split(%stream, sizes=(4~1, 4~2))",
        "%out = concat(%second, %first)",
        "return %out",
    ]
    with pytest.raises(GraphError, match="%first is already defined"):
        graph.rename("second", "first")


CHANGES: dict[str, Callable[[Graph, Build], object]] = {
    "replace": lambda graph, op: graph.replace([graph.value("y")], [graph.value("other")]),
    "prune": lambda graph, op: graph.prune(),
    "rename an input": lambda graph, op: graph.rename("x", "renamed"),
    "rename a second result": lambda graph, op: graph.rename("b", "renamed"),
    "input": lambda graph, op: graph.input("more", X),
    "parameter": lambda graph, op: graph.param("more", WEIGHT),
    "op": lambda graph, op: op.add(graph.value("y"), graph.value("y"), name="more"),
}


@pytest.mark.parametrize("original", [True, False], ids=["original", "copy"])
@pytest.mark.parametrize("change", CHANGES)
def test_a_copy_is_independent(
    graph: Graph, op: Build, registry: Registry, change: str, original: bool
) -> None:
    """Whichever of the two is changed, the other stays; and what was asked once, is asked anew."""
    x = graph.input("x", X)
    a, b = op.split(x, sizes=(Dim(4, 1), Dim(4, 2)), name=("a", "b"))
    y = op.scale(op.concat(a, b), factor=2.0, name="y")
    op.add(x, x, name="other")
    graph.outputs = (op.softcap(y, cap=3.0),)
    before = graph.once(state)
    copy = graph.copy()
    changed, kept = (graph, copy) if original else (copy, graph)
    CHANGES[change](changed, Build(changed, registry.ops))
    assert state(kept) == before
    assert state(changed) != before
    assert changed.once(state) == state(changed)
    assert kept.once(state) == before


def test_order_is_topological_and_follows_definition(registry: Registry) -> None:
    """Parameters and dead ends that come between do not move the ops."""
    orders = set()
    for seed in range(8):
        draw = random.Random(seed)
        graph = Graph()
        op = Build(graph, registry.ops)
        x = graph.input("x", X)
        params = [f"w_{i}" for i in range(4)]
        draw.shuffle(params)
        for name in params[: draw.randrange(4)]:
            graph.param(name, WEIGHT)
        a = op.mul(x, graph.param("w_0", WEIGHT), name="a")
        b = op.mul(x, graph.param("w_1", WEIGHT), name="b")
        c = op.mul(b, graph.param("w_2", WEIGHT), name="c")
        graph.outputs = (op.add(op.add(a, c, name="d"), b, name="e"),)
        orders.add(tuple(lines(graph)))
        place = {node.name: i for i, node in enumerate(graph.nodes())}
        for node in graph.nodes():
            assert all(place[v.name] < place[node.name] for v in graph.operands(node))
    assert len(orders) == 1
