"""The text form of one graph: a line a node."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from .dims import Dim
from .graph import Graph, Value
from .op import Op


def print_graph(graph: Graph) -> tuple[str, ...]:
    """One line a node, parameters left out; a change of scope is a comment line."""
    return graph.once(_lines)


def _lines(graph: Graph) -> tuple[str, ...]:
    lines, scope = [], ""
    for node in graph.nodes():
        if node.kind == "param":
            continue
        if node.op is not None and node.scope != scope:
            scope = node.scope
            lines.append(f"# {scope}")
        names = ", ".join(f"%{v.name}" for v in node.results)
        types = ", ".join(str(v.type) for v in node.results)
        call = "input" if node.op is None else print_call(node.op, graph.operands(node))
        lines.append(f"{names} = {call} : {types}")
    return *lines, f"return {', '.join(f'%{v.name}' for v in graph.outputs)}"


def print_call(op: Op, operands: tuple[Value, ...]) -> str:
    """An op and its operands; attributes that have their default are left out."""
    arguments = [f"%{v.name}" for v in operands]
    for field in fields(op):
        value = getattr(op, field.name)
        if value != field.default:
            arguments.append(f"{field.name}={print_attribute(value)}")
    return f"{op.name}({', '.join(arguments)})"


def print_attribute(value: Any) -> str:
    """An attribute's value as the text form writes it."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return json.dumps(value)
    if isinstance(value, tuple):
        return f"({', '.join(map(print_attribute, value))})"
    return str(value) if isinstance(value, Dim) else repr(value)
