"""Compute once what a block computes twice."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..compiler.ir.graph import Node
from ..compiler.rewrite.passes import StepwisePass
from ..compiler.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class MergeCommon(StepwisePass):
    """One op for two of the same kind, attributes and operands; one parameter for two that agree.

    %a = add(%x, %y)
    %b = add(%y, %x)        %a = add(%x, %y)
    %c = mul(%a, %b)   ->   %c = mul(%a, %a)

    Parameters agree where their programs and dtypes do.
    """

    name = "merge-common"

    def applications(self, rewriter: Rewriter) -> Iterator[None]:
        """Merge two at a time, from the inputs on: what a merge made equal is merged after it."""
        while _merged_params(rewriter) or _merged_ops(rewriter):
            yield
        _refuse_caches(rewriter)


def _merged_params(rewriter: Rewriter) -> bool:
    graph, first = rewriter.graph, dict[Any, str]()
    read = {value.name for value in graph.params}
    for name, param in rewriter.block.params.items():
        if name not in read:
            continue
        known = first.setdefault(param, name)
        if known != name:
            rewriter.replace(graph.value(name), graph.value(known))
            return True
    return False


def _merged_ops(rewriter: Rewriter) -> bool:
    first: dict[Any, Node] = {}
    for node in rewriter.graph.nodes():
        if node.op is None:
            continue
        known = first.setdefault(_meaning(rewriter, node), node)
        if known is not node:
            # One anew, so that it takes the name that either has, the first's before the other's.
            rewriter.beside(known.results[0])
            made = rewriter.add(node.op, *rewriter.graph.operands(known))
            made = made if isinstance(made, tuple) else (made,)
            rewriter.replace((*known.results, *node.results), (*made, *made))
            return True
    return False


def _meaning(rewriter: Rewriter, node: Node) -> tuple[Any, ...]:
    """What two nodes have in common that compute the same."""
    operands = rewriter.graph.operands(node)
    types = tuple(value.type for value in node.results)
    if node.op is not None and node.op.commutative:
        return node.op, frozenset(operands), types
    return node.op, operands, types


def _refuse_caches(rewriter: Rewriter) -> None:
    """Say of rows that two caches hold that both are written."""
    first: dict[Any, Node] = {}
    for node in rewriter.graph.nodes():
        if node.op is None or not node.op.stateful:
            continue
        known = first.setdefault((node.op.name, rewriter.graph.operands(node)), node)
        if known is not node:
            rewriter.refuse(node, f"it writes another cache than %{known.name} does")
