"""Bugs of who compresses caches and absorbs attention."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from archsmith.compiler.ir.dims import ONE
from archsmith.compiler.ir.graph import Node, Value
from archsmith.compiler.rewrite.rewriter import Rewriter

from .mutant import Change, again, each, found


def rolled(rewriter: Rewriter, value: Value, axis: int) -> Any:
    """The first entry of an axis comes last."""
    first, rest = rewriter.op.split(value, sizes=(ONE, value.type.shape[axis] - 1), axis=axis)
    return rewriter.op.concat(rest, first, axis=axis)


# compress-kv: what is cached is a row of a latent and of a rotated key


def packed(change: Callable[[Rewriter, Node, tuple[Value, ...]], Any]) -> Change:
    """Make a bug of what it puts in place of a packed row, before it is cached."""

    def run(rewriter: Rewriter) -> None:
        for node in found(rewriter, "cached"):
            made = rewriter.graph.node(rewriter.graph.operands(node)[0])
            if made.op is not None and made.op.name == "concat":
                rewriter.replace(
                    made.results, [change(rewriter, made, rewriter.graph.operands(made))]
                )

    run.__name__ = change.__name__
    return run


@packed
def pack_in_another_order(rewriter: Rewriter, node: Node, parts: tuple[Value, ...]) -> Any:
    return again(rewriter, node, *reversed(parts))


@packed
def pack_before_the_norm(rewriter: Rewriter, node: Node, parts: tuple[Value, ...]) -> Any:
    latent, turned = parts
    norm = rewriter.graph.node(latent)
    return again(rewriter, node, rewriter.graph.operands(norm)[0], turned)


@packed
def pack_before_the_rotation(rewriter: Rewriter, node: Node, parts: tuple[Value, ...]) -> Any:
    latent, turned = parts
    rope = rewriter.graph.node(turned)
    return again(rewriter, node, latent, rewriter.graph.operands(rope)[0])


@packed
def pack_nothing_of_the_rotated_key(
    rewriter: Rewriter, node: Node, parts: tuple[Value, ...]
) -> Any:
    latent, turned = parts
    return again(rewriter, node, latent, rewriter.op.zeros(turned))


@packed
def shift_the_packed_row(rewriter: Rewriter, node: Node, parts: tuple[Value, ...]) -> Any:
    return rolled(rewriter, again(rewriter, node), -1)


@each("expand")
def turn_the_context_again(rewriter: Rewriter, node: Node) -> Any:
    """By the slots' own angles, though what is cached is turned already."""
    rope = found(rewriter, "rope")[0]
    positions = next(v for v in rewriter.graph.inputs if v.name == "positions")
    angles = rewriter.graph.operands(rope)[1:]
    turns = [rewriter.op.cached(v, positions, cache=f"turns_{i}") for i, v in enumerate(angles)]
    for i, turn in enumerate(turns):
        rewriter.cache(f"turns_{i}", turn.type)
    (row,) = rewriter.graph.operands(node)
    return again(rewriter, node, again(rewriter, rope, row, *turns))


# absorb-attention: the query meets the rows themselves


@each("attend")
def heads_of_the_query_rolled(rewriter: Rewriter, node: Node) -> Any:
    q, *rest = rewriter.graph.operands(node)
    return again(rewriter, node, rolled(rewriter, q, -2), *rest)


@each("attend")
def heads_of_the_result_rolled(rewriter: Rewriter, node: Node) -> Any:
    return rolled(rewriter, again(rewriter, node), -2)


@each("attend")
def drop_the_rotated_part_of_the_query(rewriter: Rewriter, node: Node) -> Any:
    q, k, v, *rest = rewriter.graph.operands(node)
    width = v.type.row[-1]
    latent, turned = rewriter.op.split(q, sizes=(width, q.type.row[-1] - width))
    query = rewriter.op.concat(latent, rewriter.op.zeros(turned))
    return again(rewriter, node, query, k, v, *rest)


@each("attend")
def scale_by_the_width_of_the_row(rewriter: Rewriter, node: Node) -> Any:
    """1 / sqrt(576), where the model has 1 / sqrt(192)."""
    k = rewriter.graph.operands(node)[1]
    return again(rewriter, node, scale=1 / math.sqrt(k.type.row[-1].size))


@each("attend")
def forget_the_scale_of_the_rotations(rewriter: Rewriter, node: Node) -> Any:
    assert node.op is not None
    return again(rewriter, node, scale=node.op.attributes()["scale"] / 1.05)


@each("attend")
def exponentials_of_two(rewriter: Rewriter, node: Node) -> Any:
    assert node.op is not None
    return again(rewriter, node, scale=node.op.attributes()["scale"] * math.log2(math.e))


@each("attend")
def take_the_value_from_the_end_of_the_row(rewriter: Rewriter, node: Node) -> Any:
    q, k, v, *rest = rewriter.graph.operands(node)
    sizes = (k.type.row[-1] - v.type.row[-1], v.type.row[-1])
    return again(rewriter, node, q, k, rewriter.op.split(k, sizes=sizes)[1], *rest)


@each("attend")
def let_slots_leak_that_nobody_wrote(rewriter: Rewriter, node: Node) -> Any:
    v = rewriter.graph.operands(node)[2]
    sums = rewriter.op.einsum(rewriter.op.scale(v, factor=0.0), equation="bsgv->bgv")
    out = again(rewriter, node)
    ones = rewriter.op.einsum(out, sums, equation="bthv,bgv->bthv")
    return rewriter.op.add(out, ones)
