"""Fuse an RMS norm into the linear layer that reads it, in decode."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..compiler.ir.graph import Graph, Node, Value
from ..compiler.ir.model import is_layer
from ..compiler.ops.elementwise import Add, GatedActivation
from ..compiler.ops.linear import Einsum
from ..compiler.ops.norm import AddRmsNorm, RmsNorm
from ..compiler.ops.norm_linear import AddRmsNormLinear, RmsNormLinear
from ..compiler.ops.shape import Unbind
from ..compiler.rewrite.passes import StepwisePass
from ..compiler.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class FuseNormLinear(StepwisePass):
    """One op, and so one launch, for a norm and the product behind it: of few rows, each program
    of the product norms them for itself.

    %x_2, %h = add_rms_norm(%x, %delta, %gain)
    %y = add(einsum(%h, %weight), %bias)
    ->
    %x_2, %y = add_rms_norm_linear(%x, %delta, %weight, %gain, %bias)

    Of a gate and what it gates, the activation too:

    %gate, %up = unbind(einsum(%h, %weight))
    %y = gated_activation(%gate, %up, function="silu")
    ->
    %x_2, %y = add_rms_norm_linear(%x, %delta, %weight, %gain, activation="silu")

    Without a residual, `rms_norm` becomes `rms_norm_linear` likewise.
    """

    name = "fuse-norm-linear"
    phases = ("decode",)

    def applications(self, rewriter: Rewriter) -> Iterator[None]:
        graph = rewriter.graph
        for node in [n for n in graph.nodes() if isinstance(n.op, RmsNorm | AddRmsNorm)]:
            reason = _unlike(rewriter, node)
            if reason is not None:
                rewriter.refuse(node, reason)
                continue
            _fuse(rewriter, node)
            yield


def _unlike(rewriter: Rewriter, node: Node) -> str | None:
    """Why a norm stays where it is, or None."""
    graph, target, h = rewriter.graph, rewriter.target, node.results[-1]
    if target is not None and target.triton is None:
        return f"{target.name} launches no kernel that would do both at once"
    if not is_layer(rewriter.block.name):
        return f"{rewriter.block.name} is no layer: its launch is one of a whole step"
    if len(h.type.row) != 1:
        return f"%{h.name} has heads, which are normed one by one"
    if h in graph.outputs:
        return f"%{h.name} is what the block returns"
    readers = graph.users(h)
    if len(readers) != 1:
        read = " and ".join(sorted({user.op.name for user in readers if user.op is not None}))
        return f"%{h.name} is read more than once, by {read}: it is normed for all of them"
    op, (first, *others) = readers[0].op, graph.operands(readers[0])
    if not isinstance(op, Einsum) or not op.projects or first != h:
        return f"%{h.name} is read by no linear layer"
    if others[0].type.shape != others[0].type.row:
        return f"%{others[0].name} is no weight"
    return None


def _fuse(rewriter: Rewriter, node: Node) -> None:
    graph = rewriter.graph
    (product,) = graph.users(node.results[-1])
    count = 2 if isinstance(node.op, AddRmsNorm) else 1
    rows, gain = graph.operands(node)[:count], graph.operands(node)[count:]
    (y,), weight, activation = product.results, graph.operands(product)[1], None
    biased = _bias(graph, y) if gain else None  # an operand stands behind those that are there
    bias = () if biased is None else biased[:1]
    y = y if biased is None else biased[1]
    gated = _gated(graph, y)
    if gated is not None:
        assert isinstance(gated.op, GatedActivation)
        (y,), activation = gated.results, gated.op.function
    assert isinstance(node.op, RmsNorm | AddRmsNorm)
    kind = AddRmsNormLinear if count == 2 else RmsNormLinear
    op = kind(**node.op.attributes(), activation=activation)
    old = (*node.results[:-1], y)
    rewriter.beside(y)
    named = y.name if not graph.node(y).anonymous else "rows" if gated is None else "hidden"
    names = [*(value.name for value in node.results[:-1]), named]
    made = rewriter.add(op, *rows, weight, *gain, *bias, name=names)
    rewriter.replace(old, made)


def _sole(graph: Graph, value: Value) -> Node | None:
    """The one op that reads a value, if it is one."""
    users = graph.users(value)
    return users[0] if len(users) == 1 and value not in graph.outputs else None


def _bias(graph: Graph, y: Value) -> tuple[Value, Value] | None:
    """The bias that is added to a product, and the sum, where there is one."""
    user = _sole(graph, y)
    if user is None or not isinstance(user.op, Add):
        return None
    first, bias = graph.operands(user)
    return (bias, user.results[0]) if first == y and bias.type.shape == y.type.row else None


def _gated(graph: Graph, y: Value) -> Node | None:
    """What joins the gate of a product [.., 2, F] with what it gates, where nothing else does."""
    parts = _sole(graph, y)
    if parts is None or not isinstance(parts.op, Unbind) or parts.op.axis != -2:
        return None
    if len(y.type.row) != 2 or len(parts.results) != 2:
        return None
    gate, up = (_sole(graph, part) for part in parts.results)
    if gate is None or gate is not up or not isinstance(gate.op, GatedActivation):
        return None
    return gate if graph.operands(gate) == parts.results else None
