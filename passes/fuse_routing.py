"""Fuse the product that gives the router's logits into the choice of experts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..compiler.ir.graph import Graph, Node, Value
from ..compiler.ops.elementwise import Add, Widen
from ..compiler.ops.linear import Einsum
from ..compiler.ops.moe import Route, Router
from ..compiler.rewrite.passes import StepwisePass
from ..compiler.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class FuseRouting(StepwisePass):
    """One op for the whole choice of experts, so that a kernel can take it as one launch.

    %logits = einsum(widen(%x), widen(%router))
    %index, %weight = route(%logits, %bias)        ->   %index, %weight = router(%x, %router, %bias)

    The product is taken in float32 or wider before and after. A bias of the logits is an operand
    too, `bias_of="logits"`.
    """

    name = "fuse-routing"

    def applications(self, rewriter: Rewriter) -> Iterator[None]:
        for node in list(rewriter.graph.nodes()):
            if not isinstance(node.op, Route):
                continue
            found = _factors(rewriter.graph, node)
            if isinstance(found, str):
                rewriter.refuse(node, found)
                continue
            rewriter.beside(node.results[0])
            op = Router(**node.op.attributes(), bias_of=found.bias_of)
            made = rewriter.add(op, *found.operands, name=("index", "weight"))
            rewriter.replace(node.results, made)
            yield


@dataclass(frozen=True)
class _Product:
    """What logits are made of, or chosen by, before it is widened."""

    operands: tuple[Value, ...]
    bias_of: str = "choice"


def _factors(graph: Graph, node: Node) -> _Product | str:
    """What the logits of a choice are made of, or why they are no product."""
    logits, *biases = graph.operands(node)
    if logits in graph.outputs or len(graph.users(logits)) > 1:
        return f"%{logits.name} is read elsewhere too"
    product, bias_of = graph.node(logits), "choice"
    if isinstance(product.op, Add):
        factor, bias = graph.operands(product)
        if biases:
            return f"%{logits.name} has a bias, and %{biases[0].name} is one of the choice"
        if len(bias.type.shape) != 1 or len(graph.users(factor)) > 1:
            return f"%{logits.name} is no product with a router's weight, and a bias"
        product, biases, bias_of = graph.node(factor), [_narrow(graph, bias)], "logits"
    if not isinstance(product.op, Einsum) or not product.op.projects:
        return f"%{logits.name} is no product with a router's weight"
    x, weight = (_narrow(graph, value) for value in graph.operands(product))
    if len(weight.type.shape) != 2:
        return f"%{weight.name} is {weight.type}, not [experts, width]"
    return _Product((x, weight, *biases), bias_of)


def _narrow(graph: Graph, value: Value) -> Value:
    """What a value was widened from, or the value."""
    node = graph.node(value)
    return graph.operands(node)[0] if isinstance(node.op, Widen) else value
