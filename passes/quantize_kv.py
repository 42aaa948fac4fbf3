"""Keep what all heads share of a token in float8, with a scale for each block of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import ClassVar

from ..compiler.ir.graph import Graph, Node, Value
from ..compiler.ir.reach import windows
from ..compiler.ir.types import BYTES, FLOATS
from ..compiler.ops.attention import Cached
from ..compiler.ops.position import Rope
from ..compiler.ops.quantized_rows import DequantizeRows
from ..compiler.ops.shape import Concat, Expand, Flatten, Split, Unbind, Unflatten
from ..compiler.rewrite.passes import Lossy, StepwisePass
from ..compiler.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class QuantizeKv(StepwisePass):
    """Reading the context is most of a step of decoding where it is long, or rows are many.

        %kv = concat(%latent, %k_rope)
        %row = cached(%kv, %positions, cache="kv")
        ->
        %numbers, %scale = quantize_rows(%latent)
        %kv_numbers = cached(%numbers, %positions, cache="kv_numbers")
        %kv_scale = cached(%scale, %positions, cache="kv_scale")
        %kv_rest = cached(%k_rope, %positions, cache="kv_rest")
        %row = dequantize_rows(%kv_numbers, %kv_scale, %kv_rest)

    What went through no rope is in float8 (E4M3), each 128 columns in units of their largest
    magnitude by 448, in float32; keys with rope stay as they are. Of 512 and 64 numbers 656 bytes
    are kept, where bfloat16 takes 1,152: the layout that DeepSeek's FlashMLA reads. All phases
    compute with the numbers that are kept, training too.
    """

    name = "quantize-kv"
    effect: ClassVar[Lossy] = Lossy("perplexity", 0.02)

    def applications(self, rewriter: Rewriter) -> Iterator[None]:
        kept = windows(rewriter.block)
        for node in list(rewriter.graph.nodes()):
            if not isinstance(node.op, Cached) or node.results[0].type.dtype not in FLOATS:
                continue
            value, positions = rewriter.graph.operands(node)
            readers = rewriter.graph.users(node.results[0])
            if any(isinstance(reader.op, DequantizeRows) for reader in readers):
                continue  # this pass has made it
            if reason := _why_not(rewriter, node, value, node.op.cache in kept):
                rewriter.refuse(node, reason)
                continue
            _quantize(rewriter, node, value, positions)
            yield


def _why_not(rewriter: Rewriter, node: Node, value: Value, windowed: bool) -> str:
    """Why a cache is left alone."""
    if len(rewriter.block.graphs) > 1:
        return "its phases have unlike graphs: place it before `absorb-attention`"
    if len(value.type.row) > 1:
        heads = value.type.row[0].size
        return f"%{value.name} has a row for each of {heads} heads, and not one that all share"
    if windowed:
        return "it keeps a window of rows only: one more token costs nothing"
    pieces = _pieces(rewriter.graph, value)
    if _roped(rewriter.graph, pieces[0]):
        return f"its first columns, %{pieces[0].name}, went through rope"
    if not any(_roped(rewriter.graph, piece) for piece in pieces):
        return f"no part of %{value.name} went through rope, and would stay in its dtype"
    return ""


def _quantize(rewriter: Rewriter, node: Node, value: Value, positions: Value) -> None:
    """Cache numbers, scales and the rest of a row, and make the row of these."""
    assert isinstance(node.op, Cached)
    graph, stem = rewriter.graph, node.op.cache
    rewriter.beside(node.results[0])
    pieces = _pieces(graph, value)
    first = next(i for i, piece in enumerate(pieces) if _roped(graph, piece))
    latent, rest = (_joined(rewriter, part) for part in (pieces[:first], pieces[first:]))
    numbers, scale = rewriter.op.quantize_rows(latent, name=[f"{stem}_numbers", f"{stem}_scale"])
    caches = []
    for end, made in (("numbers", numbers), ("scale", scale), ("rest", rest)):
        cache = _unused(rewriter, f"{stem}_{end}")
        caches.append(rewriter.add(Cached(cache), made, positions, name=f"{stem}_{end}"))
        rewriter.cache(cache, caches[-1].type)
    row = rewriter.op.dequantize_rows(*caches, name=stem)
    was, now = _bytes(node.results), _bytes(caches)
    rewriter.remark(node, f"{was} bytes a token become {now}")
    rewriter.replace(node.results, [row])


def _pieces(graph: Graph, value: Value) -> Sequence[Value]:
    """The values that a row has side by side."""
    node = graph.node(value)
    if isinstance(node.op, Concat) and node.op.axis == -1:
        return graph.operands(node)
    return (value,)


def _joined(rewriter: Rewriter, pieces: Sequence[Value]) -> Value:
    joined: Value = pieces[0] if len(pieces) == 1 else rewriter.op.concat(*pieces)
    return joined


def _roped(graph: Graph, value: Value) -> bool:
    """Whether any column of a value is what rope has made."""
    node = graph.node(value)
    if isinstance(node.op, Concat | Expand | Flatten | Split | Unbind | Unflatten):
        return any(_roped(graph, operand) for operand in graph.operands(node))
    return isinstance(node.op, Rope)


def _unused(rewriter: Rewriter, stem: str) -> str:
    """A name that no cache of the block has."""
    names = (stem if i == 1 else f"{stem}_{i}" for i in count(1))
    return next(name for name in names if name not in rewriter.block.caches)


def _bytes(rows: Sequence[Value]) -> int:
    return sum(
        BYTES[row.type.dtype] * math.prod(axis.size for axis in row.type.row) for row in rows
    )
