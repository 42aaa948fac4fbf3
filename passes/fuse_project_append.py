"""Fuse a layer's first product with what is appended of it, in decode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from ..compiler.ir.graph import Graph, Node, Value
from ..compiler.ops.append import AppendHeads, AppendLatent, AppendQuantizedLatent
from ..compiler.ops.norm_linear import AddRmsNormLinear, RmsNormLinear
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
    %x_2, %q_2, %k_2, %v_2 = project_heads(%x, %weight, %positions, ..., %delta, %gain)

    Of latent attention, `append_latent` becomes `project_latent` likewise, and so does
    `append_quantized_latent`. Where the product is of the queries' own latent, the keys' is another
    product's, and one operand more:

    %q_nope, %q_rope = split(rms_norm_linear(%q_latent, %weight, %gain))
    %q, %kv = append_latent(%q_nope, %q_rope, %head_weight, %latent, %k_rope, %positions, ...)
    ->
    %q, %kv = project_latent(%q_latent, %weight, %head_weight, %positions, ..., %latent, %k_rope)
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
    given = _given(graph, node)
    y = _heads(graph, given) if isinstance(node.op, AppendHeads) else _latent(graph, given)
    product = graph.node(y)
    norms = product.op
    if not isinstance(norms, RmsNormLinear | AddRmsNormLinear) or norms.activation is not None:
        raise Unlike(f"%{y.name} is no product of rows that are normed on the way")
    if product.name in graph.ancestors(tuple(given.values())):
        raise Unlike(f"what goes with %{y.name} depends on it")
    beside = _given(graph, product)
    operands = [beside.pop("x"), beside.pop("weight")]
    if "weight" in given:
        operands.append(given.pop("weight"))
    operands += [given.pop(name) for name in ("positions", "cos", "sin")]
    beside |= {"latent_gain" if name == "gain" else name: x for name, x in given.items()}
    op = _op(node, row_eps=norms.eps, row_offset=norms.offset, beside=tuple(beside))
    old = *product.results[:-1], *node.results
    rewriter.beside(node.results[0])
    made = rewriter.add(op, *operands, *beside.values(), name=[value.name for value in old])
    rewriter.replace(old, made)


def _given(graph: Graph, node: Node) -> dict[str, Value]:
    """The operands of a node, by name."""
    operands = graph.operands(node)
    assert node.op is not None
    return dict(zip(node.op.named(len(operands)), operands, strict=True))


def _op(node: Node, **norm: Any) -> ProjectHeads | ProjectLatent:
    """What does as this node, behind a product that norms its rows so."""
    assert node.op is not None
    attributes = node.op.attributes()
    if isinstance(node.op, AppendHeads):
        queries, (keys, values) = node.results[0].type.row, (v.type.row for v in node.results[1:])
        sizes: dict[str, Any] = {
            "heads": queries[0],
            "groups": keys[0],
            "key": keys[1],
            "value": values[1],
        }
        return ProjectHeads(**attributes, **norm, **sizes)
    names = "interleaved", "eps", "offset", "block"
    options = {name: attributes[name] for name in names if name in attributes}
    return ProjectLatent(caches=node.op.written, **options, **norm)


def _heads(graph: Graph, given: dict[str, Value]) -> Value:
    """The rows of which queries, keys and values, taken from `given`, are all, in this order."""
    parts = given.pop("q"), given.pop("k"), given.pop("v")
    if isinstance(graph.node(parts[0]).op, Unbind):
        return _parted(graph, parts, Unbind, -3)
    return _parted(graph, tuple(_parted(graph, (x,), Unflatten) for x in parts), Split)


def _latent(graph: Graph, given: dict[str, Value]) -> Value:
    """The rows of which queries of two parts, taken from `given`, are all; or, of the latent and
    the key behind them, which are then taken too, all are parts."""
    heads = _parted(graph, (given.pop("q_nope"), given.pop("q_rope")), Split)
    if isinstance(graph.node(heads).op, Unflatten):
        heads = _parted(graph, (heads,), Unflatten)
    if not isinstance(graph.node(heads).op, Split):
        return heads
    row = _parted(graph, (given.pop("latent"), given.pop("k_rope")), Split)
    return _parted(graph, (heads, row), Split)


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
