"""Fuse the product that gives the router's logits into the choice of experts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..compiler.ir.graph import Graph, Node, Value
from ..compiler.ops.elementwise import Add, Widen
from ..compiler.ops.linear import Einsum
from ..compiler.ops.moe import Route
from ..compiler.rewrite.passes import StepwisePass
from ..compiler.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class FuseRouting(StepwisePass):
    """One op for the whole choice of experts, so that a kernel can take it as one launch.

    %logits = einsum(widen(%x), widen(%router))
    %index, %weight = route(%logits, %bias)        ->   %index, %weight = router(%x, %router, %bias)

    The product is taken in float32 or wider before and after.
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
            bias = rewriter.graph.operands(node)[1:]
            names = ("index", "weight")
            made = rewriter.op.router(*found, *bias, **node.op.attributes(), name=names)
            rewriter.replace(node.results, made)
            yield


def _factors(graph: Graph, node: Node) -> tuple[Value, Value] | str:
    """What the logits are a product of, before it is widened, or why they are none."""
    logits = graph.operands(node)[0]
    if logits in graph.outputs or len(graph.users(logits)) > 1:
        return f"%{logits.name} is read elsewhere too"
    product = graph.node(logits)
    if isinstance(product.op, Add):
        return f"%{logits.name} is a sum: `router` adds no bias to the logits that it makes"
    if not isinstance(product.op, Einsum) or not product.op.projects:
        return f"%{logits.name} is no product with a router's weight"
    x, weight = (_narrow(graph, value) for value in graph.operands(product))
    if len(weight.type.shape) != 2:
        return f"%{weight.name} is {weight.type}, not [experts, width]"
    return x, weight


def _narrow(graph: Graph, value: Value) -> Value:
    """What a value was widened from, or the value."""
    node = graph.node(value)
    return graph.operands(node)[0] if isinstance(node.op, Widen) else value
