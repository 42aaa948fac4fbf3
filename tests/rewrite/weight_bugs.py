"""Bugs of who joins, reorders, scales and turns weights."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from archsmith.compiler.ir.computed import Rotate, Scale
from archsmith.compiler.ir.graph import Node
from archsmith.compiler.ir.weights import Concat, Each, Flatten, Program, Slice, Unflatten
from archsmith.compiler.rewrite.rewriter import Rewriter

from .mutant import again, each


def in_another_order(program: Program) -> Program:
    """The parts of a joined weight, which are split as they were."""
    assert isinstance(program, Concat)
    return Concat(tuple(reversed(program.of)), program.axis)


def as_it_was(program: Program) -> Program:
    """The rows that pairs of neighbours turn, though halves are turned now."""
    assert isinstance(program, Flatten)
    unflattened = program.parts[0].parts[0]
    assert isinstance(unflattened, Unflatten)
    return unflattened.of


def _each(program: Program, change: Any) -> Program:
    """The program with what is computed changed, wherever it is."""
    made = change(program)
    if made is not program:
        return made
    if isinstance(program, Concat):
        return replace(program, of=tuple(_each(part, change) for part in program.of))
    if isinstance(program, Each):
        return replace(program, body=_each(program.body, change))
    if isinstance(program, Slice | Unflatten):
        return replace(program, of=_each(program.of, change))
    return program


def without_the_gain(program: Program) -> Program:
    return _each(program, lambda p: p.of if isinstance(p, Scale) else p)


def without_the_offset(program: Program) -> Program:
    return _each(program, lambda p: replace(p, offset=0.0) if isinstance(p, Scale) else p)


def not_turned(program: Program) -> Program:
    return _each(program, lambda p: p.of if isinstance(p, Rotate) else p)


@each("split")
def a_part_of_the_wrong_rows(rewriter: Rewriter, node: Node) -> Any:
    """The parts begin where the last of them should."""
    assert node.op is not None
    sizes = node.op.attributes()["sizes"]
    parts = again(rewriter, node, sizes=(sizes[-1], *sizes[:-1]))
    return rewriter.add(node.op, rewriter.op.concat(*parts[1:], parts[0]))


@each("rope", 1)
def turn_neighbours_in_the_key_alone(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, interleaved=True)


@each("route")
def weigh_the_shared_as_the_routed(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, always_weight=2.5)


@each("router")
def choose_by_softmax(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, score="softmax")


@each("router")
def choose_without_the_bias(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, *rewriter.graph.operands(node)[:2])
