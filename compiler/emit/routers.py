"""The choices of experts that a package can be asked about, and the lines that tell of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..ir.dims import Which
from ..ir.graph import Graph, Node
from ..ir.model import Block
from ..ops.moe import Router, Routing
from ..schedule.code import Code, call
from .layout import statement
from .values import Source, Text


@dataclass(frozen=True)
class Recorded:
    """One choice of experts of a block, as `balance.py` describes it."""

    name: Text
    given: Source
    """The keywords of its description, a line each."""


def recorded(graph: Graph) -> Mapping[str, str]:
    """What each choice of experts is called, by its node: the part of the spec that it is in.

    Left out is one whose operands are no parameters, which `balance.py` could not look up.
    """
    names: dict[str, str] = {}
    for node in graph.nodes():
        if isinstance(node.op, Routing) and _looked_up(graph, node) is not None:
            stem = node.scope or "router"
            choices = (stem if i < 2 else f"{stem}_{i}" for i in range(1, len(names) + 2))
            names[node.name] = next(name for name in choices if name not in names.values())
    return names


def told(name: str, given: Code, index: Code, *, indent: int) -> list[str]:
    """The lines that tell whoever records it what a choice was given, and what it was."""
    record = call("self.record", name, given, index)
    return [f"{' ' * indent}if self.record is not None:", *statement(record.text, indent + 4)]


def described(block: Block, which: Which) -> list[Recorded]:
    """The choices of a block's experts when it is trained."""
    graph = block.graph("train")
    found = []
    for node, name in recorded(graph).items():
        routing = graph.get(node)
        assert routing is not None
        op, params = routing.op, _looked_up(graph, routing)
        assert isinstance(op, Routing)
        assert params is not None
        experts = op.experts(*(value.type for value in graph.operands(routing)))
        facts = {
            "score": op.score,
            "experts": experts.at(which),
            "top_k": op.top_k.at(which),
            **params,
        }
        lines = [line for key, fact in facts.items() for line in _keyword(key, fact)]
        found.append(Recorded(Text(name), Source(tuple(lines))))
    return found


def _keyword(key: str, fact: object) -> list[str]:
    text = call("f", **{key: fact}).text
    return [f"            {text[2:-1]},"]


def _looked_up(graph: Graph, node: Node) -> dict[str, str] | None:
    """The parameters among what chooses experts, or None where one of them is no parameter."""
    _, *others = graph.operands(node)
    names: tuple[str, ...] = ("bias",)
    if isinstance(node.op, Router):
        names = "weight", "logit_bias" if node.op.bias_of == "logits" else "bias"
    if any(value not in graph.params for value in others):
        return None
    return {name: value.name for name, value in zip(names, others, strict=False)}
