"""Pictures of one graph: Mermaid, DOT, and SVG with a layout of our own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from html import escape
from itertools import pairwise

from .graph import Graph, Node
from .layers import Size, Wire, layout
from .lines import print_attribute

RETURN = "return"
FILL = {"op": "#eef3fb", "input": "#e8f5e9", "param": "#fdf3e1", RETURN: "#e8f5e9"}
LINE, CHAR, PAD, SIDE = 15.0, 6.7, 8.0, 14.0  # of SVG text at 11 px, in px


@dataclass(frozen=True)
class Box:
    """An op with its attributes, a parameter, an input or the return."""

    key: str
    kind: str
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Edge:
    """A value on its way from what defines it to what reads it; a parameter's box says it all."""

    source: str
    target: str
    value: str
    type: str


def mermaid(graph: Graph) -> str:
    """A Mermaid flow chart (mermaid.js.org), as GitHub shows it in Markdown."""
    boxes, edges = _picture(graph)
    lines = ["flowchart TD"]
    brackets = {
        "op": ("[", "]"),
        "param": ("[/", "/]"),
        "input": ("([", "])"),
        RETURN: ("([", "])"),
    }
    for box in boxes:
        left, right = brackets[box.kind]
        lines.append(f'  {box.key}{left}"{"<br/>".join(map(_mermaid, box.lines))}"{right}')
    for edge in edges:
        label = f'|"{_mermaid(_label(edge))}"|' if edge.value else ""
        lines.append(f"  {edge.source} -->{label} {edge.target}")
    lines += [f"  classDef {kind} fill:{color},stroke:#555" for kind, color in FILL.items()]
    for kind in FILL:
        keys = [box.key for box in boxes if box.kind == kind]
        if keys:
            lines.append(f"  class {','.join(keys)} {kind}")
    return "\n".join(lines) + "\n"


def dot(graph: Graph) -> str:
    """A digraph in the language of Graphviz."""
    boxes, edges = _picture(graph)
    lines = [
        "digraph {",
        '  node [shape=box, style="filled,rounded", fontname=monospace, fontsize=11]',
        "  edge [fontname=monospace, fontsize=9]",
    ]
    for box in boxes:
        size = ", fontsize=9, margin=0.05" if box.kind == "param" else ""
        label = "\\n".join(map(_dot, box.lines))
        lines.append(f'  {box.key} [label="{label}", fillcolor="{FILL[box.kind]}"{size}]')
    for edge in edges:
        label = f' [label="{_dot(_label(edge))}"]' if edge.value else ""
        lines.append(f"  {edge.source} -> {edge.target}{label}")
    return "\n".join(lines) + "\n}\n"


def svg(graph: Graph) -> str:
    """A picture that a browser shows; parameters stand at the left of the op that reads them."""
    boxes, edges = _picture(graph)
    inner = {box.key: box for box in boxes if box.kind != "param"}
    params: dict[str, list[Box]] = {key: [] for key in inner}
    values: dict[str, dict[str, list[Edge]]] = {key: {} for key in inner}
    order = [f"%{value.name}" for node in graph.nodes() for value in node.results]
    by_key = {box.key: box for box in boxes}
    for edge in edges:
        if not edge.value:
            params[edge.target].append(by_key[edge.source])
        else:
            values[edge.source].setdefault(edge.value, []).append(edge)
    for key, found in values.items():
        values[key] = {name: found[name] for name in sorted(found, key=order.index)}
    cells = {key: _Cell.of(box, params[key], values[key]) for key, box in inner.items()}
    wires, named = [], []
    for key, cell in cells.items():
        for i, (value, read) in enumerate(values[key].items()):
            targets = tuple(dict.fromkeys(edge.target for edge in read))
            wires.append(Wire(key, targets, cell.port(i)))
            named.append((value, read[0].type))
    plan = layout({key: Size(cell.width, cell.height) for key, cell in cells.items()}, wires)
    starts = [plan.routes[i, wire.targets[0]][0] for i, wire in enumerate(wires)]
    ends = [x + 4 + _small(text) for (x, _), (_, text) in zip(starts, named, strict=True)]
    parts = [*_head(max(plan.width, *ends) + 2 * SIDE, plan.height + 2 * SIDE)]
    for (_, target), points in plan.routes.items():
        aim = (points[-1][0] + cells[target].middle, points[-1][1])
        parts.append(f'<path d="{_curve((*points[:-1], aim))}" class="wire"/>')
    for key, (x, y) in plan.boxes.items():
        parts += cells[key].draw(x, y)
    for (x, y), label in zip(starts, named, strict=True):
        for text, at in zip(label, (y + 11, y + 21), strict=True):
            parts.append(_text(text, x + 4, at, "start", "small"))
    return "\n".join((*parts, "</g>", "</svg>")) + "\n"


@dataclass(frozen=True)
class _Cell:
    """A box of the SVG and the parameters at its left, with room for the names of its results."""

    box: Box
    params: tuple[Box, ...]
    body: float
    side: float
    height: float
    results: int

    @classmethod
    def of(cls, box: Box, params: list[Box], values: dict[str, list[Edge]]) -> _Cell:
        labels = [max(_small(value), _small(read[0].type)) for value, read in values.items()]
        body = max(_width(box.lines), len(labels) * (max(labels, default=0.0) + PAD))
        side = max((_width(p.lines) + SIDE for p in params), default=0.0)
        stacked = sum(len(p.lines) * LINE + PAD for p in params) + 4 * max(len(params) - 1, 0)
        height = max(len(box.lines) * LINE + PAD, stacked)
        return cls(box, tuple(params), body, side, height, len(values))

    @property
    def width(self) -> float:
        return self.side + self.body

    @property
    def middle(self) -> float:
        """The middle of the box, from the middle of the cell."""
        return self.side / 2

    def port(self, result: int) -> float:
        """Where a result leaves, from the middle of the cell."""
        if self.results == 1:
            return self.middle
        return self.middle - self.body / 2 + 10 + self.body * result / self.results

    def draw(self, x: float, y: float) -> Iterator[str]:
        left = x - self.width / 2 + self.side
        yield from _rect(self.box, left, y, self.body, self.height)
        top = y
        for param in self.params:
            height = len(param.lines) * LINE + PAD
            yield from _rect(param, left - self.side, top, self.side - SIDE, height)
            at = min(top + height / 2, y + self.height - 4)
            yield f'<path d="M{left - SIDE:.1f},{at:.1f} L{left:.1f},{at:.1f}" class="wire"/>'
            top += height + 4


def _picture(graph: Graph) -> tuple[list[Box], list[Edge]]:
    """Boxes in topological order, and an edge for each operand."""
    keys: dict[str, str] = {}
    boxes, edges = [], []
    for node in graph.nodes():
        keys[node.name] = f"n{len(keys)}"
        boxes.append(Box(keys[node.name], node.kind, tuple(_lines(node))))
        for operand in graph.operands(node):
            edges.append(_edge(graph, keys, operand.name, keys[node.name]))
    boxes.append(Box(RETURN, RETURN, (RETURN,)))
    edges += [_edge(graph, keys, value.name, RETURN) for value in graph.outputs]
    return boxes, edges


def _lines(node: Node) -> Iterator[str]:
    if node.op is None:
        yield f"%{node.name}" if node.kind == "param" else f"input %{node.name}"
        if node.kind == "param":
            yield str(node.results[0].type)
        return
    yield node.op.name
    for field in fields(node.op):
        value = getattr(node.op, field.name)
        if value != field.default:
            yield f"{field.name}={print_attribute(value)}"


def _edge(graph: Graph, keys: dict[str, str], value: str, target: str) -> Edge:
    node = graph.node(value)
    if node.kind == "param":
        return Edge(keys[node.name], target, "", "")
    return Edge(keys[node.name], target, f"%{value}", str(graph.value(value).type))


def _label(edge: Edge) -> str:
    return f"{edge.value} : {edge.type}"


def _mermaid(text: str) -> str:
    """Mermaid takes HTML entities, with `#` for `&`, in quoted text."""
    plain = set("%=.:,_+-~() ")
    return "".join(c if c.isalnum() or c in plain else f"#{ord(c)};" for c in text)


def _dot(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _head(width: float, height: float) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}"'
        f' viewBox="0 0 {width:.0f} {height:.0f}" font-family="monospace" font-size="11">'
    )
    yield "<style>.wire{fill:none;stroke:#667;marker-end:url(#tip)} .small{font-size:9px;fill:#445;"
    yield "paint-order:stroke;stroke:#fff;stroke-width:3px}"
    yield "rect{stroke:#556} .back{stroke:none;fill:#fff}</style>"
    yield '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7"'
    yield 'markerHeight="7" orient="auto"><path d="M0,0 L8,4 L0,8 z" fill="#667"/></marker></defs>'
    yield '<rect class="back" width="100%" height="100%"/>'
    yield f'<g transform="translate({SIDE:.0f} {SIDE:.0f})">'


def _rect(box: Box, x: float, y: float, width: float, height: float) -> Iterator[str]:
    yield (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="4"'
        f' fill="{FILL[box.kind]}"/>'
    )
    top = y + (height - len(box.lines) * LINE) / 2
    for i, line in enumerate(box.lines):
        weight = "bold" if i == 0 and box.kind == "op" else ""
        yield _text(line, x + width / 2, top + LINE * i + 11, "middle", "", weight)


def _text(text: str, x: float, y: float, anchor: str, kind: str, weight: str = "") -> str:
    more = (f' class="{kind}"' if kind else "") + (f' font-weight="{weight}"' if weight else "")
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


def _curve(points: tuple[tuple[float, float], ...]) -> str:
    """Straight down past a row, an S between rows."""
    path = f"M{points[0][0]:.1f},{points[0][1]:.1f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        bend = (y0 + y1) / 2
        path += (
            f" L{x1:.1f},{y1:.1f}"
            if abs(x0 - x1) < 0.05
            else f" C{x0:.1f},{bend:.1f} {x1:.1f},{bend:.1f} {x1:.1f},{y1:.1f}"
        )
    return path


def _small(text: str) -> float:
    """The width of a label."""
    return len(text) * CHAR * 0.85


def _width(lines: tuple[str, ...]) -> float:
    return max(map(len, lines)) * CHAR + 2 * PAD
