"""Bugs in norms, feed-forward networks and experts."""

from __future__ import annotations

from typing import Any

from archsmith.compiler.ir.dims import ONE
from archsmith.compiler.ir.graph import Node
from archsmith.compiler.ir.weights import Stack
from archsmith.compiler.rewrite.rewriter import Rewriter

from .mutant import VALUE, Mutant, again, each, swapped


@each("activation")
def another_activation(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, function="gelu_tanh")


@each("rms_norm")
def another_eps(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, eps=2e-5)


@each("rms_norm")
def another_offset(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, offset=1.0)


@each("rms_norm")
def drop_a_norm(rewriter: Rewriter, node: Node) -> Any:
    return rewriter.graph.operands(node)[0]


@each("mul")
def drop_a_factor(rewriter: Rewriter, node: Node) -> Any:
    return rewriter.graph.operands(node)[0]


def drop_a_residual(rewriter: Rewriter) -> None:
    (out,) = rewriter.graph.outputs
    node = rewriter.graph.node(out)
    if node.op is not None and node.op.name == "add":
        rewriter.replace(out, rewriter.graph.operands(node)[1])


@each("split")
def slice_from_the_wrong_place(rewriter: Rewriter, node: Node) -> Any:
    (x,) = rewriter.graph.operands(node)
    first, rest = rewriter.op.split(x, sizes=(ONE, x.type.row[-1] - 1))
    return again(rewriter, node, rewriter.op.concat(rest, first))


@each("concat")
def join_in_another_order(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, *reversed(rewriter.graph.operands(node)))


@each("experts")
def gate_for_up(rewriter: Rewriter, node: Node) -> Any:
    x, index, weight, gate, up, down = rewriter.graph.operands(node)
    return again(rewriter, node, x, index, weight, up, gate, down)


@each("experts")
def experts_in_another_order(rewriter: Rewriter, node: Node) -> Any:
    *rest, down = rewriter.graph.operands(node)
    program = rewriter.program(down)
    stacked = Stack(program.parts[0], "expert", program.shape[0])
    return again(rewriter, node, *rest, rewriter.param("down", swapped(stacked)))


@each("route")
def another_score(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, score="softmax")


@each("route")
def weights_that_are_not_normalized(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, normalize=False)


@each("route")
def experts_of_any_group(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, groups=ONE, top_groups=ONE)


@each("route")
def choose_without_the_bias(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, rewriter.graph.operands(node)[0])


@each("route")
def groups_judged_by_another_score(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, group_score="max")


NETWORK = (
    Mutant(another_activation, VALUE),
    Mutant(another_eps, VALUE),
    Mutant(another_offset, VALUE),
    Mutant(drop_a_norm, VALUE),
    Mutant(drop_a_factor, VALUE),
    Mutant(drop_a_residual, "block embed, value|" + VALUE + "|differs by"),
    Mutant(slice_from_the_wrong_place, VALUE),
    Mutant(join_in_another_order, VALUE + "|its replacement"),
    Mutant(gate_for_up, VALUE),
    Mutant(experts_in_another_order, VALUE),
    Mutant(another_score, VALUE),
    Mutant(weights_that_are_not_normalized, VALUE),
    Mutant(experts_of_any_group, VALUE),
    Mutant(choose_without_the_bias, VALUE),
    Mutant(groups_judged_by_another_score, VALUE),
)
