"""Fuse the norm before a choice of experts into it, in decode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..compiler.ir.graph import Graph, Node, Value
from ..compiler.ops.elementwise import Zeros
from ..compiler.ops.moe import NormRouter, Router
from ..compiler.ops.norm import AddRmsNorm
from ..compiler.rewrite.passes import StepwisePass
from ..compiler.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class FuseNormRouter(StepwisePass):
    """One op, and so one launch, for a residual add, its norm, and the choice of experts.

    %x_2, %h = add_rms_norm(%x, %delta, %gain)
    %index, %weight = router(%h, %router, %bias)
    ->
    %arrived = zeros(%positions)
    %x_2, %h, %index, %weight = norm_router(%x, %delta, %gain, %router, %arrived, %bias)

    By `arrived` a kernel counts its programs, so that the last of them chooses. It depends on
    positions alone, and so is made once for all layers; each leaves it as it was.
    """

    name = "fuse-norm-router"
    phases = ("decode",)

    def applications(self, rewriter: Rewriter) -> Iterator[None]:
        graph, target = rewriter.graph, rewriter.target
        for node in [node for node in graph.nodes() if type(node.op) is Router]:
            found = _normed(graph, node)
            if target is not None and target.triton is None:
                found = f"{target.name} launches no kernel that would do all at once"
            if isinstance(found, str):
                rewriter.refuse(node, found)
                continue
            norm, positions = found
            assert isinstance(node.op, Router)
            assert isinstance(norm.op, AddRmsNorm)
            op = NormRouter(**node.op.attributes(), **norm.op.attributes())
            _, weight, *bias = graph.operands(node)
            rewriter.beside(node.results[0])
            arrived = rewriter.add(Zeros(), positions, name="arrived")
            operands = *graph.operands(norm), weight, arrived, *bias
            names = [value.name for value in (*norm.results, *node.results)]
            made = rewriter.add(op, *operands, name=names)
            rewriter.replace((*norm.results, *node.results), made)
            yield


def _normed(graph: Graph, node: Node) -> tuple[Node, Value] | str:
    """The norm of what a router is given and the positions of its tokens, or why there is none."""
    h, *_ = graph.operands(node)
    norm = graph.node(h)
    if not isinstance(norm.op, AddRmsNorm) or h != norm.results[1]:
        return f"%{h.name} is no sum that was normed"
    if len(graph.operands(norm)) < 3:
        return f"the norm of %{h.name} has no gain"
    positions = next((value for value in graph.inputs if value.name == "positions"), None)
    if positions is None:
        return "the block is given no positions, of which there are as many as tokens"
    return norm, positions
