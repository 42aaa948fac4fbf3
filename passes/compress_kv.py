"""Cache what keys and values are made of, where that is smaller and no slower to attend to."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import count

from ..compiler.ir.cut import Cut, cheapest_cuts, made_of
from ..compiler.ir.dims import CONTEXT
from ..compiler.ir.graph import Value
from ..compiler.ops.attention import Attend, Cached
from ..compiler.rewrite.absorption import absorb
from ..compiler.rewrite.passes import Pass
from ..compiler.rewrite.rewriter import Rewriter
from ..compiler.rewrite.worth import better, compared


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
    context then costs f on all of its rows, unless f can be absorbed into the query and the result:
    what makes a step of decoding slower either way is left alone.
    """

    name = "compress-kv"

    def run(self, rewriter: Rewriter) -> None:
        cuts = cheapest_cuts(rewriter.block)
        if len(rewriter.block.graphs) > 1:
            for cut in cuts:
                rewriter.refuse(cut.read[0].name, "its phases have unlike graphs")
            return
        for cut in cuts:
            node = rewriter.graph.node(cut.read[0])
            if reason := _not_worth(rewriter, cut):
                rewriter.refuse(node, reason)
            else:
                redone = _compress(rewriter, cut)
                names = " and ".join(f"%{value.name}" for value in _fresh(cut))
                again = f"{redone} values of the context are made again at each step, or absorbed"
                rewriter.remark(
                    node,
                    f"{cut.bytes} bytes a token are kept of {cut.held}: {names}; "
                    + (again if redone else "nothing is made again"),
                )


def _not_worth(rewriter: Rewriter, cut: Cut) -> str:
    """Why the caches stay as they are, or nothing."""
    # Values of the context are caches already: of another attention, perhaps.
    if cut.bytes >= cut.held or not _fresh(cut):
        return f"its caches hold {cut.held} bytes a token, and nothing smaller makes them again"
    made = rewriter.trial()
    _compress(made, cut)
    absorbed = made.trial()
    attentions = [node for name in cut.readers if (node := absorbed.graph.get(name))]
    why = [absorb(absorbed, node) for node in attentions if isinstance(node.op, Attend)]
    before = rewriter.graph
    was, now = compared(before, made.graph, "decode", rewriter.target)
    if not better(was, now, "decode"):
        return ""
    least = f"{cut.bytes} bytes a token would do for {cut.held}, but a step of decoding takes {now}"
    least += f" to make them again, where it takes {was}"
    was, now = compared(before, absorbed.graph, "decode", rewriter.target)
    if not better(was, now, "decode"):
        return ""
    if any(why):
        return f"{least}; they are not absorbed: {next(filter(None, why))}"
    return f"{least}, and {now} absorbed, where it takes {was}"


def _fresh(cut: Cut) -> tuple[Value, ...]:
    return tuple(value for value in cut.values if CONTEXT not in value.type.shape)


def _compress(rewriter: Rewriter, cut: Cut) -> int:
    """Cache the cut in place of what is read; returns how many values are made of it again."""
    rewriter.beside(cut.read[0])
    fresh = _in_order(rewriter, cut)
    made = {value: value for value in cut.values if value not in fresh}
    made |= zip(fresh, _kept(rewriter, fresh), strict=True)
    kept = {rewriter.graph.node(value).name for value in cut.values}
    rewriter.replace(cut.read, tuple(_again(rewriter, value, made, kept) for value in cut.read))
    for node in (node for name in cut.readers if (node := rewriter.graph.get(name))):
        operands = rewriter.graph.operands(node)
        if isinstance(node.op, Attend) and operands[1] == operands[2]:
            whole = replace(node.op, value_in_key=True)
            rewriter.replace(node.results[0], rewriter.add(whole, *operands, name="out"))
    return len(set(made.values())) - len(cut.values)


def _in_order(rewriter: Rewriter, cut: Cut) -> tuple[Value, ...]:
    """What values alone are made of, what keys are too, and the rest: both are neighbours then."""
    key, *others = cut.read[:2]
    of_key = made_of(rewriter.graph, key, cut.values)
    of_value = {v for value in others for v in made_of(rewriter.graph, value, cut.values)}
    return tuple(sorted(_fresh(cut), key=lambda value: (value in of_key) - (value in of_value)))


def _kept(rewriter: Rewriter, values: tuple[Value, ...]) -> Sequence[Value]:
    """The rows of the context of each value: in one cache where they are rows of numbers."""
    (positions,) = (value for value in rewriter.graph.inputs if value.name == "positions")
    stems = [_stem(value.name) for value in values]

    def cached(value: Value, stem: str, name: str) -> Value:
        rows = rewriter.add(Cached(stem), value, positions, name=name)
        rewriter.cache(stem, rows.type)
        kept: Value = rows
        return kept

    alike = len({value.type.dtype for value in values}) == 1
    if alike and len(values) > 1 and all(len(value.type.row) == 1 for value in values):
        row = rewriter.op.concat(*values, name="kv")
        row = cached(row, _unused(rewriter, "kv"), "kv")
        sizes = tuple(value.type.row[0] for value in values)
        parts: Sequence[Value] = rewriter.op.split(row, sizes=sizes, name=stems)
        return parts
    return [cached(v, _unused(rewriter, s), s) for v, s in zip(values, stems, strict=True)]


def _unused(rewriter: Rewriter, stem: str) -> str:
    """A name that no cache of the block has."""
    names = (stem if i == 1 else f"{stem}_{i}" for i in count(1))
    return next(name for name in names if name not in rewriter.block.caches)


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
