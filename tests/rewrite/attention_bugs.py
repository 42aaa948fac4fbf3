"""Bugs in attention and its caches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from archsmith.compiler.ir.graph import Node
from archsmith.compiler.rewrite.rewriter import Rewriter

from .mutant import DECODE, PREFILL, VALUE, Mutant, again, each, found, reprogram, swapped


@each("attend")
def forget_the_scale(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, scale=1.0)


@each("attend")
def scale_off_by_a_thousandth(rewriter: Rewriter, node: Node) -> Any:
    assert node.op is not None
    return again(rewriter, node, scale=node.op.attributes()["scale"] * 1.001)


@each("attend")
def widen_the_window(rewriter: Rewriter, node: Node) -> Any:
    assert node.op is not None
    window = node.op.attributes()["window"]
    return again(rewriter, node, window=window + 1 if window else None)


@each("attend")
def drop_the_softcap(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, softcap=None)


@each("attend")
def drop_the_sinks(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, *rewriter.graph.operands(node)[:4])


@each("attend")
def value_for_key(rewriter: Rewriter, node: Node) -> Any:
    q, _, v, *rest = rewriter.graph.operands(node)
    return again(rewriter, node, q, v, v, *rest)


@each("rope", 1)
def drop_the_rotation_of_the_key(rewriter: Rewriter, node: Node) -> Any:
    return rewriter.graph.operands(node)[0]


@each("rope")
def pair_neighbours_for_halves(rewriter: Rewriter, node: Node) -> Any:
    assert node.op is not None
    return again(rewriter, node, interleaved=not node.op.attributes()["interleaved"])


@each("rope")
def cosine_for_sine(rewriter: Rewriter, node: Node) -> Any:
    x, cos, _ = rewriter.graph.operands(node)
    return again(rewriter, node, x, cos, cos)


@each("rotations")
def another_theta(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, theta=10001.0)


@each("rotations")
def another_gain(rewriter: Rewriter, node: Node) -> Any:
    return again(rewriter, node, gain=1.01)


def exchange_the_norms_of_query_and_key(rewriter: Rewriter) -> None:
    params = {value.name: value for value in rewriter.graph.params}
    if {"q_norm", "k_norm"} <= set(params):
        programs = [rewriter.program(params[name]) for name in ("q_norm", "k_norm")]
        for name, program in zip(("k_norm", "q_norm"), programs, strict=True):
            rewriter.block.params[name] = replace(rewriter.block.params[name], program=program)


swap_two_heads = reprogram("q", swapped, "swap_two_heads")


def _rotated_key(rewriter: Rewriter) -> Iterator[tuple[Node, Node]]:
    """The key's rotation and what caches it, where the one reads the other at once."""
    for node in found(rewriter, "rope"):
        for user in rewriter.graph.users(node.results[0]):
            if user.op is not None and user.op.name == "cached":
                yield node, user


def cache_the_key_before_its_rotation(rewriter: Rewriter) -> None:
    for rope, cached in _rotated_key(rewriter):
        k, positions = rewriter.graph.operands(rope)[0], rewriter.graph.operands(cached)[1]
        rewriter.replace(cached.results, [again(rewriter, cached, k, positions)])


def _rotate_the_context(rewriter: Rewriter, second: int) -> None:
    for rope, cached in _rotated_key(rewriter):
        k, *turns = rewriter.graph.operands(rope)
        positions = rewriter.graph.operands(cached)[1]
        rows = again(rewriter, cached, k, positions)
        kept = []
        for name, turn in zip(("cos_rows", "sin_rows"), (turns[0], turns[second]), strict=True):
            kept.append(rewriter.op.cached(turn, positions, cache=name))
            rewriter.cache(name, kept[-1].type)
        rewriter.replace(cached.results, [again(rewriter, rope, rows, *kept)])


def rotate_what_is_cached(rewriter: Rewriter) -> None:
    """No bug: a token-local op moves behind the caches of all that it reads."""
    _rotate_the_context(rewriter, 1)


def rotate_what_is_cached_by_the_wrong_angle(rewriter: Rewriter) -> None:
    _rotate_the_context(rewriter, 0)


def write_each_cache_where_the_other_is_read(rewriter: Rewriter) -> None:
    nodes = found(rewriter, "cached")
    if len(nodes) == 2 and nodes[0].results[0].type == nodes[1].results[0].type:
        names = [node.op.attributes()["cache"] for node in nodes if node.op is not None]
        for node, other in zip(nodes, reversed(names), strict=True):
            rewriter.replace(node.results, [again(rewriter, node, cache=other)])


@each("cached", 1)
def write_no_second_cache(rewriter: Rewriter, node: Node) -> Any:
    (first, _) = found(rewriter, "cached")
    return first.results[0] if first.results[0].type == node.results[0].type else node.results[0]


@each("cached")
def write_another_cache_in_this_phase(rewriter: Rewriter, node: Node) -> Any:
    rewriter.cache("fresh", node.results[0].type)
    return again(rewriter, node, cache="fresh")


@each("cached")
def forget_to_cache(rewriter: Rewriter, node: Node) -> Any:
    return rewriter.graph.operands(node)[0]


@each("attend")
def read_slots_that_nobody_wrote(rewriter: Rewriter, node: Node) -> Any:
    """Nothing is wrong until such a slot holds what is no number."""
    v = rewriter.graph.operands(node)[2]
    out = again(rewriter, node)
    if v.type.row != out.type.row:
        return node.results[0]
    sums = rewriter.op.einsum(v, equation="bshv->bhv")
    leak = rewriter.op.einsum(out, rewriter.op.scale(sums, factor=0.0), equation="bthv,bhv->bthv")
    return rewriter.op.add(out, leak)


@each("add", 3)
def off_in_one_phase(rewriter: Rewriter, node: Node) -> Any:
    return rewriter.op.scale(again(rewriter, node), factor=1.001)


ATTENTION = (
    Mutant(forget_the_scale, VALUE),
    Mutant(scale_off_by_a_thousandth, VALUE),
    Mutant(widen_the_window, VALUE),
    Mutant(drop_the_softcap, VALUE),
    Mutant(drop_the_sinks, VALUE),
    Mutant(value_for_key, "block gqa, value %|a part of .* is no longer read"),
    Mutant(drop_the_rotation_of_the_key, VALUE),
    Mutant(pair_neighbours_for_halves, VALUE),
    Mutant(cosine_for_sine, VALUE),
    Mutant(another_theta, VALUE),
    Mutant(another_gain, VALUE),
    Mutant(exchange_the_norms_of_query_and_key, VALUE),
    Mutant(swap_two_heads, VALUE),
    Mutant(cache_the_key_before_its_rotation, VALUE),
    Mutant(cache_the_key_before_its_rotation, VALUE, DECODE),
    Mutant(cache_the_key_before_its_rotation, VALUE, PREFILL),
    Mutant(rotate_what_is_cached_by_the_wrong_angle, VALUE),
    Mutant(write_each_cache_where_the_other_is_read, VALUE, DECODE),
    Mutant(write_no_second_cache, VALUE),
    Mutant(write_another_cache_in_this_phase, "value %.* differs", DECODE),
    Mutant(forget_to_cache, r"%k.* is bfloat16\[B, S, .*, its replacement bfloat16\[B, T, "),
    Mutant(read_slots_that_nobody_wrote, VALUE),
    Mutant(off_in_one_phase, VALUE + "prefill and decode", DECODE),
    Mutant(off_in_one_phase, VALUE + "prefill", PREFILL),
    Mutant(off_in_one_phase, VALUE + "train", ("train",)),
)
