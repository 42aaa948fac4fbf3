"""From the head of a model to what it is trained by: the loss without the logits."""

from __future__ import annotations

from ..ir.graph import Graph, Value
from ..ir.model import HEAD, LOSS, Block, Model
from ..ir.types import TensorType
from ..ops.elementwise import Scale, Softcap
from ..ops.linear import Einsum
from ..ops.loss import LinearCrossEntropy


def loss_block(model: Model) -> Block | None:
    """The head with `linear_cross_entropy` in the place of what makes its logits, and takes
    `targets` behind its stream; None where logits are not one product, scaled and capped at most.

        %logits = einsum(%h, %head, equation="btd,vd->btv")
        return %logits             ->   %losses, %lse = linear_cross_entropy(%h, %head, %targets)
                                        return %losses
    """
    if HEAD not in model.blocks:
        return None
    head = model.blocks[HEAD]
    graph = head.graph("train").copy()
    if len(graph.outputs) != 1 or graph.defines("targets"):
        return None
    found = _product(graph, graph.outputs[0])
    if found is None:
        return None
    op, x, weight = found
    targets = graph.input("targets", TensorType("int64", x.type.shape[:-1]))
    losses, _ = graph.add(op, x, weight, targets, names=("losses", "lse"))
    logits = graph.outputs
    graph.outputs = (losses,)
    graph.prune(graph.ancestors(logits) - graph.ancestors((losses,)))
    block = Block(LOSS, dict(head.params), graphs={("train",): graph})
    block.drop_unread()
    return block


def _product(graph: Graph, value: Value) -> tuple[LinearCrossEntropy, Value, Value] | None:
    """The op that has the loss of these logits, and the operands of the product they are."""
    softcap, scale = None, 1.0
    node = graph.node(value)
    if isinstance(node.op, Softcap):
        softcap = node.op.cap
        node = graph.node(*graph.operands(node))
    if isinstance(node.op, Scale) and not node.op.stored:
        scale = node.op.factor
        node = graph.node(*graph.operands(node))
    if not isinstance(node.op, Einsum) or not node.op.projects:
        return None
    x, weight = graph.operands(node)
    if len(weight.type.shape) != 2:
        return None
    return LinearCrossEntropy(scale, softcap), x, weight
