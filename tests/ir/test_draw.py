"""Pictures: well formed, complete, the same every time, and safe for what text may hold."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.draw import dot, mermaid, svg
from archsmith.compiler.ir.graph import Graph
from archsmith.compiler.ir.layers import Size, Wire, layout
from archsmith.compiler.ir.model import Model
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.plugins import Registry
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import models

REGISTRY = Registry.installed()
SVG = "{http://www.w3.org/2000/svg}"


@dataclass(frozen=True)
class Quoted(Op):
    """An op whose attribute holds what each format must escape."""

    name = "quoted"
    text: str

    def infer(self, x: TensorType) -> TensorType:
        return x

    def reference(self, x: Any) -> Any:
        return x


def shown(picture: str) -> list[str]:
    """The texts of an SVG, once unescaped by a parser of XML."""
    return [element.text or "" for element in ElementTree.fromstring(picture).iter(f"{SVG}text")]


@given(models(REGISTRY))
@settings(max_examples=25)
def test_every_value_of_a_random_model_is_in_every_picture(model: Model) -> None:
    for block in model.blocks.values():
        for graph in block.graphs.values():
            values = [
                v for n in graph.nodes() for v in n.results if n.kind != "op" or _read(graph, v)
            ]
            texts, chart, digraph = shown(svg(graph)), mermaid(graph), dot(graph)
            for value in values:
                assert any(f"%{value.name}" in text for text in texts)
                assert f"%{value.name}" in chart
                assert f"%{value.name}" in digraph
            ops = sum(node.op is not None for node in graph.nodes())
            assert len(re.findall(r"^  n\d+ \[label=", digraph, re.M)) == len(list(graph.nodes()))
            assert len(re.findall(r'^  n\d+\["', chart, re.M)) == ops
            reads = sum(len(graph.operands(n)) for n in graph.nodes()) + len(graph.outputs)
            assert digraph.count(" -> ") == chart.count(" -->") == reads
            assert (svg(graph), mermaid(graph), dot(graph)) == (
                svg(graph.copy()),
                chart,
                digraph,
            )


def _read(graph: Graph, value: Any) -> bool:
    return bool(graph.users(value)) or value in graph.outputs


@pytest.mark.parametrize("text", ['"', "\\", "<b>&amp;", "]]>", '"];}', "|end|", "\n", "é #35;"])
def test_text_is_escaped(text: str) -> None:
    graph = Graph()
    x = graph.input("x", TensorType("float32", ("B", "T", Dim(8, 3))))
    graph.outputs = graph.add(Quoted(text), x)
    assert any(t.startswith("text=") for t in shown(svg(graph)))
    (box,) = (line for line in mermaid(graph).splitlines() if "text=" in line)
    label = box[box.index('"') + 1 : box.rindex('"')].replace("<br/>", "")
    assert not set(label) & set('"<>&|[]{}\\')
    (box,) = (line for line in dot(graph).splitlines() if "text=" in line)
    assert re.fullmatch(r'  n\d+ \[label="(?:[^"\\]|\\.)*", fillcolor="#[0-9a-f]{6}"\]', box)


BOXES = st.lists(
    st.builds(Size, st.floats(10, 300), st.floats(10, 120)), min_size=1, max_size=12
).map(lambda sizes: {f"b{i}": size for i, size in enumerate(sizes)})


@st.composite
def drawings(draw: st.DrawFn) -> tuple[dict[str, Size], list[Wire]]:
    boxes = draw(BOXES)
    names = list(boxes)
    wires = []
    for i, name in enumerate(names[:-1]):
        targets = draw(st.lists(st.sampled_from(names[i + 1 :]), unique=True, max_size=3))
        if targets:
            wires.append(Wire(name, tuple(targets)))
    return boxes, wires


@given(drawings())
@settings(max_examples=100)
def test_boxes_do_not_overlap_and_wires_go_down(
    drawing: tuple[dict[str, Size], list[Wire]],
) -> None:
    boxes, wires = drawing
    plan = layout(boxes, wires)
    for a, b in combinations(boxes, 2):
        (ax, ay), (bx, by) = plan.boxes[a], plan.boxes[b]
        beside = abs(ax - bx) + 1e-6 >= (boxes[a].width + boxes[b].width) / 2
        apart = ay + boxes[a].height <= by or by + boxes[b].height <= ay
        assert beside or apart
    for name, size in boxes.items():
        x, y = plan.boxes[name]
        assert size.width / 2 - 1e-6 <= x <= plan.width - size.width / 2 + 1e-6
        assert 0 <= y <= plan.height - size.height + 1e-6
    for i, wire in enumerate(wires):
        for target in wire.targets:
            points = plan.routes[i, target]
            assert points[-1] == plan.boxes[target]
            assert all(a[1] <= b[1] + 1e-6 for a, b in pairwise(points))
            assert points[0][1] < points[-1][1]


def test_wires_in_order_do_not_cross() -> None:
    """Two ladders given in mixed order come apart."""
    boxes = dict.fromkeys(("a", "b", "d", "c"), Size(40, 20))
    plan = layout(boxes, [Wire("a", ("c",)), Wire("b", ("d",))])
    x = {name: at[0] for name, at in plan.boxes.items()}
    assert (x["a"] - x["b"]) * (x["c"] - x["d"]) > 0


def test_boxes_stand_under_each_other_where_they_can() -> None:
    boxes = {"a": Size(40, 20), "b": Size(90, 20), "c": Size(10, 20)}
    plan = layout(boxes, [Wire("a", ("b",)), Wire("b", ("c",))])
    assert len({round(x, 6) for x, _ in plan.boxes.values()}) == 1
