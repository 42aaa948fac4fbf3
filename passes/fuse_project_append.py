"""Fuse a layer's first product with what is appended of it, in decode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..compiler.ir.graph import Graph, Node, Value
from ..compiler.ops.append import AppendHeads, AppendLatent, AppendQuantizedLatent
from ..compiler.ops.norm_linear import AddRmsNormLinear
from ..compiler.ops.project import ProjectHeads, ProjectLatent
from ..compiler.ops.shape import Split, Unbind, Unflatten
from ..compiler.rewrite.passes import StepwisePass
from ..compiler.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class FuseProjectAppend(StepwisePass):
    """One op, and so one launch, for a product of normed rows and what is appended of each: of few
    rows, the last of a head's programs goes on with it.

    %x_2, %rows = add_rms_norm_linear(%x, %delta, %weight, %gain)
    %a, %b, %c = split(%rows)
    %q_2, %k_2, %v_2 = append_heads(unflatten(%a), unflatten(%b), unflatten(%c), %positions, ...)
    ->
    %x_2, %q_2, %k_2, %v_2 = project_heads(%x, %delta, %weight, %gain, %positions, ...)

    Of latent attention, `append_latent` becomes `project_latent` likewise.
    """

    name = "fuse-project-append"
    phases = ("decode",)

    def applications(self, rewriter: Rewriter) -> Iterator[None]:
        graph = rewriter.graph
        appends = AppendHeads | AppendLatent | AppendQuantizedLatent
        for node in [n for n in graph.nodes() if isinstance(n.op, appends)]:
            try:
                _fuse(rewriter, node)
            except Unlike as why:
                rewriter.refuse(node, str(why))
                continue
            yield


class Unlike(Exception):
    """What is appended is made in another way."""


def _fuse(rewriter: Rewriter, node: Node) -> None:
    """Fuse what is appended into the product it is of."""
    graph, target = rewriter.graph, rewriter.target
    if target is not None and target.triton is None:
        raise Unlike(f"{target.name} launches no kernel that would do both at once")
    if target is not None and not target.waits:
        raise Unlike(f"a program of {target.name} cannot tell that it is the last of several")
    if isinstance(node.op, AppendQuantizedLatent):
        raise Unlike(f"%{node.results[0].name} is to meet numbers of 8 bits")
    operands = graph.operands(node)
    if isinstance(node.op, AppendLatent):
        q_nope, q_rope, head_weight, latent, k_rope, *turns = operands
        y, others = _latent(graph, (q_nope, q_rope), (latent, k_rope)), (head_weight, *turns)
        if len(turns) != 4:
            raise Unlike(f"%{latent.name} is normed without a gain")
    else:
        y, others = _heads(graph, operands[:3]), operands[3:]
    product = graph.node(y)
    if not isinstance(product.op, AddRmsNormLinear) or product.op.activation is not None:
        raise Unlike(f"%{y.name} is no product of a sum that is normed on the way")
    given = graph.operands(product)
    if len(given) != 4:
        raise Unlike(f"%{y.name} has a bias, or is of a norm without a gain")
    if product.name in graph.ancestors(others):
        raise Unlike(f"what %{y.name} is turned by depends on it")
    norm: dict[str, Any] = {"row_eps": product.op.eps, "row_offset": product.op.offset}
    if isinstance(node.op, AppendLatent):
        op: ProjectHeads | ProjectLatent = ProjectLatent(**node.op.attributes(), **norm)
    else:
        assert isinstance(node.op, AppendHeads)
        (heads, key), (groups, value) = operands[0].type.row, operands[2].type.row
        sizes = {"heads": heads, "groups": groups, "key": key, "value": value}
        op = ProjectHeads(**{**node.op.attributes(), **norm, **sizes})
    old = product.results[0], *node.results
    rewriter.beside(node.results[0])
    made = rewriter.add(op, *given, *others, name=[value.name for value in old])
    rewriter.replace(old, made)


def _heads(graph: Graph, parts: tuple[Value, ...]) -> Value:
    """The rows of which queries, keys and values are all parts, in this order."""
    if isinstance(graph.node(parts[0]).op, Unbind):
        return _parted(graph, parts, Unbind, -3)
    return _parted(graph, tuple(_parted(graph, (x,), Unflatten) for x in parts), Split)


def _latent(graph: Graph, query: tuple[Value, ...], row: tuple[Value, ...]) -> Value:
    """The rows of which queries of two parts, and then a latent and a key, are all parts."""
    heads = _parted(graph, (_parted(graph, query, Split),), Unflatten)
    return _parted(graph, (heads, _parted(graph, row, Split)), Split)


def _parted(
    graph: Graph,
    parts: tuple[Value, ...],
    kind: type[Split] | type[Unbind] | type[Unflatten],
    axis: int = -1,
) -> Value:
    """What an op takes apart, if these are all its parts, and nothing else reads any of them."""
    node = graph.node(parts[0])
    if not isinstance(node.op, kind) or node.results != parts or node.op.axis != axis:
        names = ", ".join(f"%{part.name}" for part in parts)
        raise Unlike(f"{names} are not all of a row, one behind the other")
    (whole,) = graph.operands(node)
    for value in (*parts, whole):
        if value in graph.outputs or len(graph.users(value)) != 1:
            raise Unlike(f"%{value.name} is read elsewhere too")
    return whole
