"""Fold the gain of a norm into the weights that multiply its result."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..compiler.ir.computed import scaled
from ..compiler.ir.graph import Node
from ..compiler.ir.moves import sliced
from ..compiler.ops.norm import AddRmsNorm, RmsNorm
from ..compiler.rewrite.passes import StepwisePass
from ..compiler.rewrite.readers import readers
from ..compiler.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class FoldNormGain(StepwisePass):
    """A norm without a gain: it reads one vector less, and what it gives may be turned.

    %y = rms_norm(%x, %gain)             %y = rms_norm(%x)
    %a = einsum(%y, %w)          ->      %a = einsum(%y, %w_2)     where w_2 = scale(w, 1, gain)

    W (g * n) = (W * g) n, column by column.
    """

    name = "fold-norm-gain"
    effect = "rounding"

    def applications(self, rewriter: Rewriter) -> Iterator[None]:
        for name in [node.name for node in rewriter.graph.nodes()]:
            node = rewriter.graph.get(name)
            if node is None or not isinstance(node.op, RmsNorm | AddRmsNorm):
                continue
            if len(rewriter.graph.operands(node)) == len(node.results):
                continue  # it has no gain
            reason = _fold(rewriter, node, node.op)
            if reason:
                rewriter.refuse(node, reason)
            else:
                yield


def _fold(rewriter: Rewriter, node: Node, op: RmsNorm | AddRmsNorm) -> str | None:
    """Rewrite one norm; returns why not, or None."""
    *rows, gain = rewriter.graph.operands(node)
    if len(rewriter.block.graphs) > 1:
        return "its phases have unlike graphs, which share their weights"
    if not rewriter.is_param(gain):
        return f"%{gain.name} is computed, not a parameter"
    if len(rewriter.graph.users(gain)) > 1:
        return f"%{gain.name} is read more than once"
    found = readers(rewriter, node.results[-1])
    if isinstance(found, str):
        return found
    for reader in found:
        part = sliced(rewriter.program(gain), 0, reader.start, reader.size)
        program = scaled(rewriter.program(reader.weight), reader.axis, part, op.offset)
        weight = rewriter.param(reader.weight.name, program, reader.weight.type.dtype)
        rewriter.replace(reader.weight, weight)
    rewriter.beside(node.results[0])
    names = [value.name for value in node.results]
    normed = rewriter.add(replace(op, offset=0.0), *rows, name=names)
    rewriter.replace(node.results, normed if isinstance(normed, tuple) else (normed,))
    return None
