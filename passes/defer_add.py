"""Leave the last residual add of a layer to the layer after it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

from ..compiler.ir.graph import Value
from ..compiler.ir.model import EMBED, HEAD
from ..compiler.rewrite.passes import ModelPass
from ..compiler.rewrite.rewriter import ModelRewriter, Rewriter


@dataclass(frozen=True)
class DeferAdd(ModelPass):
    """The stream between layers becomes a pair: the sum so far, and what is yet to be added.

        %x = input                    %x = input
        ...                           %delta = input
        %y = add(%x_2, %mlp)     ->   %sum = add(%x, %delta)
        return %y                     ...
                                      return %x_2, %mlp

    So the last add of a layer meets the first norm of the next, and `fuse-add-rms-norm` joins them.
    """

    name = "defer-add"

    def run(self, rewriter: ModelRewriter) -> None:
        layers = list(rewriter.layers())
        whole = {EMBED, HEAD} <= set(rewriter.model.blocks)
        refusals = [(layer, why) for layer in layers if (why := _refuses(layer, whole))]
        for layer, why in refusals:
            layer.refuse(layer.graph.outputs[0].name, why)
        if refusals or not layers:
            return
        before, behind = rewriter.model.beside_layers()
        for embed in chain.from_iterable(map(rewriter.of, before)):
            (x,) = embed.graph.outputs
            embed.returns(x, embed.op.zeros(x, name="delta"))
        for layer in layers:
            _take_pair(layer)
            total = layer.graph.node(layer.graph.outputs[0])
            layer.returns(*layer.graph.operands(total))
        for head in chain.from_iterable(map(rewriter.of, behind)):
            _take_pair(head)


def _refuses(layer: Rewriter, whole: bool) -> str | None:
    if not whole:
        return "the model has no embedding or no head"
    if len(layer.graph.outputs) != 1:
        return "the block already returns more than one value"
    (out,) = layer.graph.outputs
    node = layer.graph.node(out)
    if node.op is None or node.op.name != "add":
        return "what the block returns is no sum"
    first, second = layer.graph.operands(node)
    if first.type != second.type:
        return f"{second.type} broadcasts to {first.type}"
    return None


def _take_pair(rewriter: Rewriter) -> None:
    (x,) = (v for v in rewriter.graph.inputs if v.name != "positions")
    delta = rewriter.input("delta", x.type)
    total: Value = rewriter.op.add(x, delta, name=x.name)
    rewriter.replace(x, total)
