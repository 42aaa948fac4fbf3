"""Fuse what stands between projections and attention in decode: norms, rotations and caches."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..compiler.ir.graph import Graph, Node, Value
from ..compiler.ops.append import AppendHeads, AppendLatent, AppendQuantizedLatent
from ..compiler.ops.attention import Attend, Cached
from ..compiler.ops.linear import Einsum
from ..compiler.ops.norm import RmsNorm
from ..compiler.ops.position import Rope
from ..compiler.ops.quantized_attention import QuantizedAttend
from ..compiler.ops.quantized_rows import QuantizeRows
from ..compiler.ops.shape import Concat, Split, Unflatten
from ..compiler.rewrite.passes import StepwisePass
from ..compiler.rewrite.rewriter import Rewriter

ABSORBED = re.compile(r"(..)(.)(.),\2\3(.)->\1\2\4")  # a query's product with its head's weight


@dataclass(frozen=True)
class FuseAppend(StepwisePass):
    """One op, and so one launch, for what a decoding step does to queries, keys and values.

    %q_2 = rope(rms_norm(%q, %q_norm), %cos, %sin)
    %k_2 = cached(rope(rms_norm(%k, %k_norm), %cos, %sin), %positions, cache="k")
    %v_2 = cached(%v, %positions, cache="v")
    ->
    %q_2, %k_2, %v_2 = append_heads(%q, %k, %v, %positions, %cos, %sin, %q_norm, %k_norm)

    Of latent attention that is absorbed, the query's product too:

    %q = concat(einsum(%q_nope, %weight), rope(%q_rope, %cos, %sin))
    %row = concat(rms_norm(%latent, %gain), rope(%k_rope, %cos, %sin))
    %kv = cached(%row, %positions, cache="kv")
    ->
    %q, %kv = append_latent(%q_nope, %q_rope, %weight, %latent, %k_rope, %positions, ..., %gain)

    Where the latent is kept in float8, `quantized_attend` reads what `append_quantized_latent`
    keeps: keys, numbers and scales.
    """

    name = "fuse-append"
    phases = ("decode",)

    def applications(self, rewriter: Rewriter) -> Iterator[None]:
        graph, target = rewriter.graph, rewriter.target
        attends = Attend | QuantizedAttend
        for node in [node for node in graph.nodes() if isinstance(node.op, attends)]:
            if target is not None and target.triton is None:
                rewriter.refuse(node, f"{target.name} launches no kernel that would do all at once")
                continue
            rewriter.beside(node.results[0])
            try:
                _form(graph, node)(rewriter, node)
            except Unlike as why:
                rewriter.refuse(node, str(why))
                continue
            yield


class Unlike(Exception):
    """What leads to an attention is another form."""


@dataclass(frozen=True)
class _Turned:
    """What is turned by rotations, and normed before that, or neither."""

    x: Value
    cos: Value
    sin: Value
    interleaved: bool
    norm: RmsNorm | None
    gain: tuple[Value, ...]
    partly: bool


def _form(graph: Graph, node: Node) -> Callable[[Rewriter, Node], None]:
    """What fuses an attention to keys as these."""
    if isinstance(node.op, QuantizedAttend):
        return _quantized
    return _heads if isinstance(graph.node(graph.operands(node)[1]).op, Cached) else _latent


def _heads(rewriter: Rewriter, node: Node) -> None:
    """Fuse attention to heads of keys and values, each in a cache of its own."""
    graph = rewriter.graph
    q, k, v, positions, *_ = graph.operands(node)
    keys, values = (_cached(graph, value) for value in (k, v))
    query, key = _turned(graph, q), _turned(graph, graph.operands(keys)[0])
    alike = [(t.cos, t.sin, t.interleaved, t.norm, len(t.gain)) for t in (query, key)]
    if alike[0] != alike[1]:
        raise Unlike(f"%{query.x.name} and %{key.x.name} are normed or turned in unlike ways")
    attributes = {} if key.norm is None else key.norm.attributes()
    op = AppendHeads(_cache(keys), _cache(values), key.interleaved, **attributes)
    value = graph.operands(values)[0]
    operands = query.x, key.x, value, positions, key.cos, key.sin, *query.gain, *key.gain
    rewriter.replace((q, k, v), rewriter.add(op, *operands, name=("q", "k", "v")))


def _latent(rewriter: Rewriter, node: Node) -> None:
    """Fuse attention to what all heads share: a latent, and a key beside it."""
    graph = rewriter.graph
    q, k, _, positions, *_ = graph.operands(node)
    alone = graph.node(k)
    if not isinstance(alone.op, Unflatten):
        raise Unlike(f"%{k.name} is no cache of keys, and no row that all heads share")
    cached = _cached(graph, graph.operands(alone)[0])
    latent, key = _halves(graph, graph.operands(cached)[0], "no latent beside a key")
    options, operands = _absorbed(graph, q, latent, key, positions)
    op = AppendLatent(_cache(cached), **options)
    made = rewriter.add(op, *operands, name=("q", "kv"))
    rewriter.replace((q, cached.results[0]), made)


def _quantized(rewriter: Rewriter, node: Node) -> None:
    """Fuse attention to a latent that is kept in float8."""
    graph = rewriter.graph
    q, *context, positions = graph.operands(node)
    caches = [_cached(graph, value) for value in context]
    numbers, scale, key = (graph.operands(cached)[0] for cached in caches)
    quantize = graph.node(numbers)
    if not isinstance(quantize.op, QuantizeRows) or quantize.results != (numbers, scale):
        raise Unlike(f"%{numbers.name} and %{scale.name} are not one latent in float8")
    _alone(graph, numbers)
    _alone(graph, scale)
    (latent,) = graph.operands(quantize)
    options, operands = _absorbed(graph, q, latent, key, positions)
    first, second, third = map(_cache, caches)
    op = AppendQuantizedLatent(third, first, second, block=quantize.op.block, **options)
    made = rewriter.add(op, *operands, name=("q", "rest", "numbers", "scale"))
    rewriter.replace((q, context[2], *context[:2]), made)


def _absorbed(
    graph: Graph, q: Value, latent: Value, key: Value, positions: Value
) -> tuple[dict[str, Any], tuple[Value, ...]]:
    """The options and operands of what absorbs a query, norms a latent, and turns its key."""
    query = _halves(graph, q, "no query absorbed beside one that is turned")
    product, norm = graph.node(query[0]), graph.node(latent)
    if not isinstance(product.op, Einsum) or not ABSORBED.fullmatch(product.op.equation):
        raise Unlike(f"%{query[0].name} is no query times the weight of its head")
    if not isinstance(norm.op, RmsNorm):
        raise Unlike(f"%{latent.name} is not normed")
    turned, other = (_turned(graph, part) for part in (query[1], key))
    if (turned.cos, turned.sin, turned.interleaved) != (other.cos, other.sin, other.interleaved):
        raise Unlike(f"%{turned.x.name} and %{other.x.name} are turned in unlike ways")
    if turned.norm is not None or turned.partly or other.partly:
        raise Unlike(f"%{turned.x.name} or %{other.x.name} is normed too, or turned in part")
    for value in (query[0], latent):
        _alone(graph, value)
    q_nope, weight = graph.operands(product)
    row, *gain = graph.operands(norm)
    operands = q_nope, turned.x, weight, row, other.x, positions, other.cos, other.sin, *gain
    return {"interleaved": other.interleaved, **norm.op.attributes()}, operands


def _turned(graph: Graph, value: Value) -> _Turned:
    """What a rope turns, wholly or in its first columns, and a norm before it, if there is one."""
    _alone(graph, value)
    node, split = graph.node(value), None
    if isinstance(node.op, Concat):
        turned, rest = _halves(graph, value, "no head of which a part is turned")
        node, split = graph.node(turned), graph.node(rest)
    if not isinstance(node.op, Rope):
        raise Unlike(f"%{value.name} is not turned")
    x, cos, sin = graph.operands(node)
    if split is not None:
        if not isinstance(split.op, Split) or split.results != (x, rest):
            raise Unlike(f"%{x.name} and %{rest.name} are no parts of a head")
        (x,) = graph.operands(split)
    norm = graph.node(x)
    if isinstance(norm.op, RmsNorm) and len(x.type.row) == 2 and len(graph.users(x)) == 1:
        x, *gain = graph.operands(norm)
        return _Turned(x, cos, sin, node.op.interleaved, norm.op, tuple(gain), split is not None)
    return _Turned(x, cos, sin, node.op.interleaved, None, (), split is not None)


def _halves(graph: Graph, value: Value, otherwise: str) -> tuple[Value, Value]:
    """The two values that stand side by side in one, which nothing else reads."""
    _alone(graph, value)
    node = graph.node(value)
    operands = graph.operands(node)
    if not isinstance(node.op, Concat) or node.op.axis != -1 or len(operands) != 2:
        raise Unlike(f"%{value.name} is {otherwise}")
    return operands[0], operands[1]


def _cached(graph: Graph, value: Value) -> Node:
    node = graph.node(value)
    if not isinstance(node.op, Cached):
        raise Unlike(f"%{value.name} is no row of a cache as it was kept")
    return node


def _cache(node: Node) -> str:
    assert isinstance(node.op, Cached)
    return node.op.cache


def _alone(graph: Graph, value: Value) -> None:
    """Raise where more than one op reads a value that would not be there any more."""
    if value in graph.outputs or len(graph.users(value)) != 1:
        raise Unlike(f"%{value.name} is read elsewhere too")
