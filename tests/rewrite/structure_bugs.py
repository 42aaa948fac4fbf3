"""Bugs with weights and types, and passes that do not work at all."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from archsmith.compiler.ir.dims import ONE, Dim
from archsmith.compiler.ir.graph import Node
from archsmith.compiler.ir.weights import Concat, Ref, Slice, Transpose
from archsmith.compiler.rewrite.rewriter import Rewriter

from .mutant import VALUE, Mutant, again, each, reprogram

transpose_a_square = reprogram("square", lambda p: Transpose(p, (1, 0)), "transpose_a_square")
read_the_wrong_tensor = reprogram(
    "down", lambda p: Ref("model.layers.{layer}.mlp.other.weight", p.shape), "read_the_wrong_tensor"
)
read_a_part_twice = reprogram(
    "down",
    lambda p: Concat((Slice(p, 0, Dim.of(0), p.shape[0] - 1), Slice(p, 0, Dim.of(0), ONE)), 0),
    "read_a_part_twice",
)


@each("einsum", 3)
def hold_a_weight_twice(rewriter: Rewriter, node: Node) -> Any:
    x, weight = rewriter.graph.operands(node)
    order = tuple(range(len(weight.type.shape)))
    copy = rewriter.param("copy", Transpose(rewriter.program(weight), order))
    halves = [rewriter.op.scale(again(rewriter, node, x, w), factor=0.5) for w in (weight, copy)]
    return rewriter.op.add(*halves)


@each("rms_norm")
def hold_a_weight_in_another_dtype(rewriter: Rewriter, node: Node) -> Any:
    weight = rewriter.graph.operands(node)[1]
    rewriter.block.params[weight.name] = replace(
        rewriter.block.params[weight.name], dtype="float64"
    )
    return again(rewriter, node)


@each("rms_norm")
def return_another_dtype(rewriter: Rewriter, node: Node) -> Any:
    return rewriter.op.widen(again(rewriter, node))


@each("attend")
def return_another_shape(rewriter: Rewriter, node: Node) -> Any:
    return rewriter.op.flatten(again(rewriter, node))


def return_one_value_more(rewriter: Rewriter) -> None:
    (out,) = rewriter.graph.outputs
    rewriter.returns(out, out)


def take_one_value_more(rewriter: Rewriter) -> None:
    (out,) = rewriter.graph.outputs
    more = rewriter.input("more", out.type)
    rewriter.replace(out, rewriter.op.add(out, rewriter.op.scale(more, factor=0.0)))


def raise_an_exception(rewriter: Rewriter) -> None:
    raise ValueError("oops")


def replace_by_nothing(rewriter: Rewriter) -> None:
    rewriter.replace(rewriter.graph.outputs[0], None)


def read_what_is_no_parameter(rewriter: Rewriter) -> None:
    rewriter.program(rewriter.graph.outputs[0])


STRUCTURE = (
    Mutant(transpose_a_square, VALUE),
    Mutant(read_the_wrong_tensor, VALUE + "|no longer read|was not read before"),
    Mutant(read_a_part_twice, VALUE + "|held more than once|no longer read"),
    Mutant(hold_a_weight_twice, "a part of .* is held more than once"),
    Mutant(hold_a_weight_in_another_dtype, "is broken: .*its program float64"),
    Mutant(return_another_dtype, "its replacement float32"),
    Mutant(return_another_shape, "its replacement "),
    Mutant(return_one_value_more, "returns|given|differs|argument"),
    Mutant(take_one_value_more, "takes|given|differs"),
    Mutant(raise_an_exception, "ValueError: oops"),
    Mutant(replace_by_nothing, "TypeError|AttributeError"),
    Mutant(read_what_is_no_parameter, "is no parameter"),
)
