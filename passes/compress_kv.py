"""Cache what keys and values are made of, where that is smaller than they are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ..compiler.ir.cut import cheapest_cut, held_bytes
from ..compiler.ir.dims import CONTEXT
from ..compiler.ir.graph import Value
from ..compiler.ops.attention import Cached
from ..compiler.rewrite.passes import Pass
from ..compiler.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class CompressKv(Pass):
    """Keep the fewest bytes a token from which attention's keys and values can be made again.

    %k = f(%latent, %k_rope)
    %keys = cached(%k, %positions, cache="k")
    ->
    %row = cached(concat(%latent, %k_rope), %positions, cache="kv")
    %latent_2, %k_rope_2 = split(%row)
    %keys = f(%latent_2, %k_rope_2)

    By the law of caches, f(cached(x), cached(y)) = cached(f(x, y)). What is kept is a minimum cut
    of the graph between the block's input and attention, so no model is known by name. Reading the
    context then costs f on all of its rows, until a further pass absorbs f into the query.
    """

    name = "compress-kv"

    def run(self, rewriter: Rewriter) -> None:
        cut = cheapest_cut(rewriter.block)
        if not cut.read:
            return
        if len(rewriter.block.graphs) > 1:
            rewriter.refuse(rewriter.graph.node(cut.read[0]), "its phases have unlike graphs")
            return
        held = held_bytes(rewriter.block)
        # Values of the context are caches already: of another attention, perhaps.
        fresh = tuple(value for value in cut.values if CONTEXT not in value.type.shape)
        if cut.bytes >= held or not fresh:
            least = f"its caches hold {held} bytes a token, and nothing smaller makes them again"
            rewriter.refuse(rewriter.graph.node(cut.read[0]), least)
            return
        rewriter.beside(cut.read[0])
        made = {value: value for value in cut.values if value not in fresh}
        made |= zip(fresh, _kept(rewriter, fresh), strict=True)
        kept = {rewriter.graph.node(value).name for value in cut.values}
        reader = rewriter.graph.node(cut.read[0]).name
        again = tuple(_again(rewriter, value, made, kept) for value in cut.read)
        rewriter.replace(cut.read, again)
        names = " and ".join(f"%{value.name}" for value in fresh)
        redone = len(set(made.values())) - len(cut.values)
        rewriter.remark(
            reader,
            f"{cut.bytes} bytes a token are kept of {held}: {names}; {redone} values of the context"
            " are made again at each step",
        )


def _kept(rewriter: Rewriter, values: tuple[Value, ...]) -> Sequence[Value]:
    """The rows of the context of each value: in one cache where they are rows of numbers."""
    (positions,) = (value for value in rewriter.graph.inputs if value.name == "positions")
    stems = [_stem(value.name) for value in values]
    if len(values) > 1 and all(len(value.type.row) == 1 for value in values):
        row = rewriter.op.concat(*values, name="kv")
        cache = next(name for name in ("kv", "kv_2") if name not in rewriter.block.caches)
        row = rewriter.add(Cached(cache), row, positions, name="kv")
        rewriter.cache(cache, row.type)
        sizes = tuple(value.type.row[0] for value in values)
        parts: Sequence[Value] = rewriter.op.split(row, sizes=sizes, name=stems)
        return parts
    found = []
    for value, stem in zip(values, stems, strict=True):
        cache = stem if stems.count(stem) == 1 else value.name
        found.append(rewriter.add(Cached(cache), value, positions, name=stem))
        rewriter.cache(cache, found[-1].type)
    return found


def _again(rewriter: Rewriter, value: Value, made: dict[Value, Value], kept: set[str]) -> Value:
    """A value of the context, computed from what is kept; what no token changes stays as it is."""
    if value in made:
        return made[value]
    node = rewriter.graph.node(value)
    if node.op is None or not kept & rewriter.graph.ancestors([value]):
        return value
    operands = [_again(rewriter, v, made, kept) for v in rewriter.graph.operands(node)]
    if node.op.stateful:  # the old cache
        made[value] = operands[0]
        return operands[0]
    names = [] if node.anonymous else [_stem(v.name) for v in node.results]
    results = rewriter.add(node.op, *operands, name=names)
    results = results if isinstance(results, tuple) else (results,)
    made.update(zip(node.results, results, strict=True))
    return made[value]


def _stem(name: str) -> str:
    """A value's name without the number that tells it from others."""
    return re.sub(r"_\d+$", "", name)
