"""A mutant: a bug that a pass may have, and what the checker says of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from archsmith.compiler.ir.dims import ONE, Dim
from archsmith.compiler.ir.graph import Node, Value
from archsmith.compiler.ir.weights import Concat, Program, Slice
from archsmith.compiler.rewrite.rewriter import Rewriter

Change = Callable[[Rewriter], None]

VALUE = r"block \w+, value %\w+ differs by (?:[0-9.e+-]+|nan) in "
"""What is said where numbers differ."""
DECODE, PREFILL = ("decode",), ("prefill",)


@dataclass(frozen=True)
class Mutant:
    """A bug, and what the checker says of it."""

    change: Change
    says: str
    phases: tuple[str, ...] = ("train", "prefill", "decode")

    def __str__(self) -> str:
        return self.change.__name__.replace("_", "-")


def found(rewriter: Rewriter, op: str) -> list[Node]:
    nodes = rewriter.graph.nodes()
    return [node for node in nodes if node.op is not None and node.op.name == op]


def each(op: str, nth: int = 0) -> Callable[[Callable[[Rewriter, Node], Any]], Change]:
    """Make a bug of what it puts in place of the `nth` op of that name in a block."""

    def decorate(change: Callable[[Rewriter, Node], Any]) -> Change:
        def run(rewriter: Rewriter) -> None:
            nodes = found(rewriter, op)
            if len(nodes) > nth:
                new = change(rewriter, nodes[nth])
                old = nodes[nth].results
                rewriter.replace(old, new if isinstance(new, tuple) else (new,))

        run.__name__ = change.__name__
        return run

    return decorate


def again(rewriter: Rewriter, node: Node, *operands: Value, **attributes: Any) -> Any:
    """The same op with other operands or attributes."""
    assert node.op is not None
    op = replace(node.op, **attributes)
    return rewriter.add(op, *(operands or rewriter.graph.operands(node)))


def swapped(program: Program) -> Program:
    """The first two entries of the first axis exchanged."""
    first, rest = Dim.of(0), program.shape[0] - 2
    parts = [Slice(program, 0, ONE, ONE), Slice(program, 0, first, ONE)]
    if rest != Dim.of(0):
        parts.append(Slice(program, 0, Dim.of(2), rest))
    return Concat(tuple(parts), 0)


def reprogram(name: str, change: Callable[[Program], Program], called: str) -> Change:
    """Make a bug of another program for a parameter."""

    def run(rewriter: Rewriter) -> None:
        for value in rewriter.graph.params:
            if value.name == name:
                program = change(rewriter.program(value))
                made = rewriter.param(name, program, value.type.dtype)
                rewriter.replace(value, made)

    run.__name__ = called
    return run
