"""Fuse the norm before a choice of experts into it, in decode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..compiler.ir.graph import Graph, Node
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
    %x_2, %h, %index, %weight = norm_router(%x, %delta, %gain, %router, %bias)
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
            assert isinstance(node.op, Router)
            assert isinstance(found.op, AddRmsNorm)
            op = NormRouter(**node.op.attributes(), **found.op.attributes())
            _, *others = graph.operands(node)
            rewriter.beside(node.results[0])
            old = *found.results, *node.results
            names = [value.name for value in old]
            rewriter.replace(old, rewriter.add(op, *graph.operands(found), *others, name=names))
            yield


def _normed(graph: Graph, node: Node) -> Node | str:
    """The norm of what a router is given, or why there is none."""
    h, *_ = graph.operands(node)
    norm = graph.node(h)
    if not isinstance(norm.op, AddRmsNorm) or h != norm.results[1]:
        return f"%{h.name} is no sum that was normed"
    if len(graph.operands(norm)) < 3:
        return f"the norm of %{h.name} has no gain"
    return norm
