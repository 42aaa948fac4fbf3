"""Bugs of who fuses gate and up, experts, routing, and norms with what they follow."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from archsmith.compiler.ir.dims import ONE, Dim
from archsmith.compiler.ir.graph import Node
from archsmith.compiler.ir.weights import (
    Concat,
    Indexed,
    Program,
    Ref,
    Slice,
    Stack,
    Transpose,
    Unflatten,
)
from archsmith.compiler.rewrite.rewriter import Rewriter

from .mutant import Change, again, each, found

TWO = Dim.of(2)


def roll(program: Program, axis: int = 0) -> Program:
    first, rest = program.shape[axis] - 1, ONE
    parts = Slice(program, axis, rest, first), Slice(program, axis, Dim.of(0), rest)
    return Concat(parts, axis)


def held(ends: str, change: Callable[[Program], Program], called: str) -> Change:
    """Make a bug of another program for the parameter whose name ends so."""

    def run(rewriter: Rewriter) -> None:
        for value in rewriter.graph.params:
            if value.name.endswith(ends):
                made = rewriter.param(value.name, change(rewriter.program(value)), value.type.dtype)
                rewriter.replace(value, made)

    run.__name__ = called
    return run


# gate and up


@each("unbind")
def gate_and_up_exchanged(rewriter: Rewriter, node: Node) -> Any:
    return tuple(reversed(again(rewriter, node)))


@each("mul")
def activate_gate_and_up(rewriter: Rewriter, node: Node) -> Any:
    gate, up = rewriter.graph.operands(node)
    made = rewriter.graph.node(gate)
    return again(rewriter, node, gate, again(rewriter, made, up))


@each("gated_activation")
def gate_by_up(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, *reversed(rewriter.graph.operands(node)))


def interleaved(program: Program) -> Program:
    """Rows of gate and up by turns, though they are read one half after the other."""
    assert isinstance(program, Unflatten)
    rows = program.of.shape[0] // TWO
    return Transpose(Unflatten(program.of, 0, (rows, TWO)), (1, 0, 2))


def both_gates(program: Program) -> Program:
    gate = Slice(program, 0, Dim.of(0), ONE)
    return Concat((gate, gate), 0)


def exchange_in_each_expert(program: Program) -> Program:
    return Concat((Slice(program, 1, ONE, ONE), Slice(program, 1, Dim.of(0), ONE)), 1)


def repeat_the_first_expert(program: Program) -> Program:
    rest = program.shape[0] - 1
    return Concat((Slice(program, 0, Dim.of(0), ONE), Slice(program, 0, Dim.of(0), rest)), 0)


def of(index: str, by: str) -> Callable[[Program], Program]:
    """Refs that count by another index, or by none."""

    def change(program: Program) -> Program:
        if isinstance(program, Ref):
            return Ref(program.name.replace(index, by), program.of)
        if isinstance(program, Concat):
            return replace(program, of=tuple(map(change, program.of)))
        if isinstance(program, Indexed):
            return Stack(change(program.body), program.index, program.count)
        assert isinstance(program, Unflatten)
        return replace(program, of=change(program.of))

    return change


def transpose_what_only_looks_square(program: Program) -> Program:
    """[hidden, heads * width] for its transpose: both are 40, and their probes are not."""
    assert isinstance(program, Unflatten)
    return Unflatten(Transpose(program.of, (1, 0)), program.axis, program.into)


def choose_one_expert_less(rewriter: Rewriter) -> None:
    for node in found(rewriter, "route"):
        assert node.op is not None
        (reader,) = rewriter.graph.users(node.results[0])
        chosen = again(rewriter, node, top_k=node.op.attributes()["top_k"] - 1)
        x, _, _, *weights = rewriter.graph.operands(reader)
        rewriter.replace(reader.results, [again(rewriter, reader, x, *chosen, *weights)])


@each("route")
def forget_the_factor_of_routed_experts(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, scale=1.0)


@each("route")
def keep_all_groups(rewriter: Rewriter, node: Node) -> Any:
    assert node.op is not None
    return again(rewriter, node, top_groups=node.op.attributes()["groups"])


def drop_a_bias_that_starts_at_zero(rewriter: Rewriter) -> None:
    """And declare it unused, as `eliminate-dead` would what nothing reads."""
    for node in found(rewriter, "add"):
        x, bias = rewriter.graph.operands(node)
        if rewriter.is_param(bias):
            names = tuple(ref.name for ref in rewriter.program(bias).refs())
            rewriter.block.unused = (*rewriter.block.unused, *names)
            rewriter.replace(node.results, [x])
            return


# fuse-add-rms-norm


@each("add_rms_norm")
def norm_without_the_residual(rewriter: Rewriter, node: Node) -> Any:
    assert node.op is not None
    x, _, weight = rewriter.graph.operands(node)
    total, _ = again(rewriter, node)
    return total, rewriter.op.rms_norm(x, weight, **node.op.attributes())


@each("add_rms_norm")
def return_what_was_added_to(rewriter: Rewriter, node: Node) -> Any:
    x = rewriter.graph.operands(node)[0]
    return rewriter.op.scale(x, factor=1.0), again(rewriter, node)[1]


@each("add_rms_norm")
def exchange_the_sum_and_its_norm(rewriter: Rewriter, node: Node) -> Any:
    return tuple(reversed(again(rewriter, node)))


@each("add_rms_norm")
def add_the_same_twice(rewriter: Rewriter, node: Node) -> Any:
    x, _, weight = rewriter.graph.operands(node)
    return again(rewriter, node, x, x, weight)


@each("add_rms_norm")
def forget_the_offset(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, offset=0.0)


@each("add_rms_norm")
def eps_of_another_norm(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, eps=1e-6)
