"""Fuse the linear layers that make query, key and value of one input."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..compiler.ir.graph import Graph, Node, Value
from ..compiler.ir.moves import flattened, joined
from ..compiler.ir.weights import Program
from ..compiler.ops.attention import Attend
from ..compiler.ops.elementwise import Add
from ..compiler.ops.linear import Einsum
from ..compiler.ops.shape import Concat
from ..compiler.rewrite.passes import StepwisePass
from ..compiler.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class Layer:
    """One linear layer: a product with a parameter, and the bias that is added to it."""

    x: Value
    weight: Value
    result: Value
    bias: Value | None = None
    biased: Value | None = None
    """The result with the bias."""


@dataclass(frozen=True)
class FuseQkv(StepwisePass):
    """Read the input once, and launch one matrix product instead of two or three.

    %q = einsum(%x, %wq)          %rows = einsum(%x, %wqkv)
    %k = einsum(%x, %wk)          %a, %b, %c = split(%rows)
    %v = einsum(%x, %wv)     ->   %q, %k, %v = unflatten(%a), unflatten(%b), unflatten(%c)

    The rows of each weight stand in the order of the graph. So are those of latents: what is
    looked for leads to a query, a key or a value, and meets no other value on its way but to stand
    beside it.
    """

    name = "fuse-qkv"

    def applications(self, rewriter: Rewriter) -> Iterator[None]:
        found, refused = _layers(rewriter.graph)
        for node, reason in refused:
            rewriter.refuse(node, reason)
        for layers in found:
            elsewhere = _differs(rewriter, layers)
            if elsewhere:
                rewriter.refuse(rewriter.graph.node(layers[0].result), elsewhere)
                continue
            _fuse(rewriter, layers)
            yield


def _fuse(rewriter: Rewriter, layers: Sequence[Layer]) -> None:
    rewriter.beside(layers[0].result)
    stems = [re.sub(r"_\d+$", "", layer.weight.name) for layer in layers]
    name = ("" if all(len(stem) == 1 for stem in stems) else "_").join(stems)
    programs = [_rows(rewriter.program(layer.weight)) for layer in layers]
    weight = rewriter.param(name, joined(programs, 0), layers[0].weight.type.dtype)
    rows = rewriter.op.einsum(layers[0].x, weight, equation="btd,fd->btf")
    old = [layer.result for layer in layers]
    biases = [layer.bias for layer in layers if layer.bias is not None]
    if len(biases) == len(layers):
        bias = joined([_rows(rewriter.program(bias), 1) for bias in biases], 0)
        rows = rewriter.op.add(rows, rewriter.param(f"{name}_bias", bias, biases[0].type.dtype))
        old = [layer.biased or layer.result for layer in layers]
    sizes = tuple(program.shape[0] for program in programs)
    parts = rewriter.op.split(rows, sizes=sizes, name=stems)
    shapes = [layer.result.type.row for layer in layers]
    new = [
        part if len(shape) == 1 else rewriter.op.unflatten(part, sizes=shape)
        for part, shape in zip(parts, shapes, strict=True)
    ]
    rewriter.replace(old, new)


def _rows(program: Program, rank: int = 2) -> Program:
    """A weight [H, K, D] as rows [H * K, D], or a bias [H, K] as one row, of rank 1."""
    while len(program.shape) > rank:
        program = flattened(program, 0)
    return program


def _layers(graph: Graph) -> tuple[list[list[Layer]], list[tuple[Node, str]]]:
    """The layers to be joined, by their input, and which are left alone and why."""
    found: dict[Value, list[Layer]] = {}
    refused = []
    for node, x, weight in _products(graph):
        reason = _no_layer(graph, node, x, weight)
        if reason:
            refused.append((node, reason))
        else:
            layer = Layer(x, weight, node.results[0], *_bias(graph, node.results[0]))
            found.setdefault(x, []).append(layer)
    for x, layers in found.items():
        if len(layers) == 1:
            reason = f"it is the only linear layer of %{x.name} that attention is made of"
            refused.append((graph.node(layers[0].result), reason))
    return [layers for layers in found.values() if len(layers) > 1], refused


def _products(graph: Graph) -> Iterator[tuple[Node, Value, Value]]:
    """What attention's operands are made of: products of one value that varies by token."""
    nodes, varying = list(graph.nodes()), set[Value]()
    for node in nodes:
        given = node.kind == "input" and node.name != "positions"
        if given or varying & {*graph.operands(node)}:
            varying |= {*node.results}
    attends = [node for node in nodes if isinstance(node.op, Attend)]
    behind, todo = set[str](), [value for node in attends for value in graph.operands(node)[:3]]
    while todo:
        node = graph.node(todo.pop())
        read = [value for value in graph.operands(node) if value in varying]
        if node.name not in behind and (len(read) == 1 or isinstance(node.op, Concat)):
            behind.add(node.name)
            todo += read
    for node in nodes:
        operands = graph.operands(node)
        if node.name in behind and isinstance(node.op, Einsum) and len(operands) == 2:
            x, weight = operands if operands[0] in varying else operands[::-1]
            yield node, x, weight


def _no_layer(graph: Graph, node: Node, x: Value, weight: Value) -> str | None:
    """Why a product is no linear layer that may be joined to others, or None."""
    assert isinstance(node.op, Einsum)
    left, result = node.op.equation.split("->")
    terms = left.split(",") if graph.operands(node)[0] == x else left.split(",")[::-1]
    if len(x.type.shape) != 3 or terms[1] != result[2:] + terms[0][2:] or len(terms[1]) < 2:
        return f"{node.op.equation} is no linear layer"
    if terms[0][:2] != result[:2]:
        return f"{node.op.equation} is no linear layer"
    if graph.node(weight).kind != "param":
        return f"%{weight.name} is computed, not a parameter"
    if len(graph.users(weight)) > 1:
        return f"%{weight.name} is read more than once"
    return None


def _bias(graph: Graph, result: Value) -> tuple[Value, Value] | tuple[None, None]:
    """The parameter that a product is added to by its one reader, and their sum."""
    users = graph.users(result)
    if len(users) == 1 and isinstance(users[0].op, Add) and result not in graph.outputs:
        bias = graph.operands(users[0])[1]
        whole = bias.type.shape == result.type.row and graph.node(bias).kind == "param"
        if whole and len(graph.users(bias)) == 1:
            return bias, users[0].results[0]
    return None, None


def _differs(rewriter: Rewriter, layers: Sequence[Layer]) -> str | None:
    """Say where another phase reads these weights otherwise: all phases share them."""
    weights = [(layer.weight, layer.bias) for layer in layers]
    for phases, graph in rewriter.block.graphs.items():
        if graph is rewriter.graph or not {weight for weight, _ in weights} & {*graph.params}:
            continue  # it has none of them, or was rewritten just now
        found, _ = _layers(graph)
        if weights not in [[(layer.weight, layer.bias) for layer in other] for other in found]:
            return f"these weights are read otherwise in {' and '.join(phases)}"
    return None
