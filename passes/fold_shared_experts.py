"""Fold the part of a mixture of experts that every token uses into the experts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..compiler.errors import GraphError
from ..compiler.ir.dims import TWO, Dim
from ..compiler.ir.graph import Graph, Node, Value
from ..compiler.ir.moves import flattened, joined, sliced, swapped, unflattened
from ..compiler.ir.stacked import stacked
from ..compiler.ir.weights import Concat, Each, Program, Unflatten
from ..compiler.ops.elementwise import Activation, Add, GatedActivation, Mul, Scale, SigmoidGate
from ..compiler.ops.experts import Experts, FusedExperts
from ..compiler.ops.linear import Einsum
from ..compiler.ops.moe import Routing
from ..compiler.ops.norm import AddRmsNorm, RmsNorm
from ..compiler.ops.shape import Unbind
from ..compiler.rewrite.passes import StepwisePass
from ..compiler.rewrite.rewriter import Rewriter


class Alone(Exception):
    """Why experts are left alone."""


@dataclass(frozen=True)
class Shared:
    """A gated feed-forward: down (activation (gate x) * up x), gate and up [W, D], down [D, W]."""

    x: Value
    activation: str
    gate: Program
    up: Program
    down: Program

    def as_experts(self, count: Dim, fused: bool) -> list[Program]:
        """The weights of `count` experts [n, F, D], or [n, 2, F, D] where fused, and [n, D, F]."""
        width = self.gate.shape[0] // count
        gate, up = (unflattened(part, 0, (count, width)) for part in (self.gate, self.up))
        down = swapped(unflattened(self.down, 1, (count, width)), 0)
        if fused:
            return [Unflatten(Concat((gate, up), 1), 1, (TWO, width)), down]
        return [gate, up, down]


@dataclass(frozen=True)
class FoldSharedExperts(StepwisePass):
    """One set of products for the experts that a token chose and for those that all tokens use.

    %index, %weight = route(%logits)
    %routed = experts(%x, %index, %weight, %gate, %up, %down)
    %y = add(%routed, %shared)
    ->
    %index, %weight = route(%logits, always=n)
    %y = experts(%x, %index, %weight, %gates, %ups, %downs, always=n)

    A gated feed-forward of width n F is exactly n experts of width F. Their weight is one; where
    what the routed experts make is scaled before it is added, it is one by the factor.
    """

    name = "fold-shared-experts"

    def applications(self, rewriter: Rewriter) -> Iterator[None]:
        for name in [node.name for node in rewriter.graph.nodes()]:
            node = rewriter.graph.get(name)
            while node is not None and isinstance(node.op, Experts | FusedExperts):
                try:
                    node = _folded(rewriter, node, node.op)
                except Alone as reason:
                    rewriter.refuse(node, str(reason))
                    break
                yield  # and once more: another part may be added to the sum


def _folded(rewriter: Rewriter, node: Node, op: Experts | FusedExperts) -> Node:
    """The node of the experts and of what is added to them; raises `Alone` where nothing fits."""
    graph = rewriter.graph
    x, _, _, *weights = graph.operands(node)
    if len(weights) > op.matrices:
        raise Alone("its experts have biases, of which the weights of tokens make shares")
    if not op.plain:
        raise Alone("its experts clamp or shift what they multiply, or have a steeper activation")
    value, end, factor = node.results[0], _reader(graph, node.results[0]), 1.0
    if isinstance(end.op, Scale):
        factor = end.op.factor
        value, end = end.results[0], _reader(graph, end.results[0])
    others = [v for v in graph.operands(end)[:2] if v != value]
    if not isinstance(end.op, Add | AddRmsNorm) or not others:
        raise Alone(f"%{value.name} is read by %{end.name}, which adds no other value to it")
    shared = _shared(rewriter, others[0])
    router, routing = _routing(graph, node, op)
    count = _count(rewriter, op, [x, *weights], shared)
    if factor == 0.0 or (routing.always.size and routing.always_weight != 1.0 / factor):
        raise Alone(f"its factor {factor} is unlike that of the experts that are always used")

    rewriter.beside(node.results[0])
    always = op.always + count
    choice = replace(routing, always=always, always_weight=1.0 / factor)
    chosen = rewriter.add(choice, *graph.operands(router), name=("index", "weight"))
    further = shared.as_experts(count, fused=isinstance(op, FusedExperts))
    params = [
        rewriter.param(old.name, joined([_packed(rewriter.program(old)), new], 0), old.type.dtype)
        for old, new in zip(weights, further, strict=True)
    ]
    y = rewriter.add(replace(op, always=always), x, *chosen, *params)
    if factor != 1.0:
        y = rewriter.op.scale(y, factor=factor)
    rewriter.remark(node, f"what every token uses is {count.size} more of its experts")
    new = [y]
    if isinstance(end.op, AddRmsNorm):
        norm = RmsNorm(**end.op.attributes())
        new.append(rewriter.add(norm, y, *graph.operands(end)[2:], name=end.results[1].name))
    rewriter.replace(end.results, new)
    return _reader(graph, chosen[0])


def _shared(rewriter: Rewriter, y: Value) -> Shared:
    """The gated feed-forward that makes a value."""
    graph = rewriter.graph
    hidden, down = _product(graph, y, 2)
    activation, gate, up = _gated(graph, hidden)
    node = graph.node(gate)
    if node == graph.node(up) and isinstance(node.op, Unbind) and node.op.axis == -2:
        for value in (gate, up):
            _reader(graph, value)
        x, both = _product(graph, graph.operands(node)[0], 3)
        rows, width = flattened(rewriter.program(both), 0), both.type.row[1]
        first, second = (sliced(rows, 0, width * node.results.index(v), width) for v in (gate, up))
    else:
        (x, own), (other, beside) = _product(graph, gate, 2), _product(graph, up, 2)
        first, second = rewriter.program(own), rewriter.program(beside)
        if x != other:
            raise Alone(f"%{gate.name} and %{up.name} are made of unlike values")
    return Shared(x, activation, first, second, rewriter.program(down))


def _gated(graph: Graph, hidden: Value) -> tuple[str, Value, Value]:
    """The activation, the gate, and what it gates."""
    node = graph.node(hidden)
    _reader(graph, hidden)
    if isinstance(node.op, GatedActivation):
        gate, up = graph.operands(node)
        return node.op.function, gate, up
    for lifted, up in zip(graph.operands(node), graph.operands(node)[::-1], strict=True):
        inner = graph.node(lifted)
        if isinstance(node.op, Mul) and isinstance(inner.op, Activation):
            _reader(graph, lifted)
            return inner.op.function, graph.operands(inner)[0], up
    raise Alone(f"%{hidden.name} is no activation times what it gates")


def _product(graph: Graph, y: Value, rank: int) -> tuple[Value, Value]:
    """What a linear layer is given, and its weight, which nothing else reads."""
    node = graph.node(y)
    if isinstance(node.op, SigmoidGate):
        raise Alone(f"%{y.name} has a weight of its own for each token")
    if not isinstance(node.op, Einsum) or not node.op.projects:
        raise Alone(f"%{y.name} is {node.op.name if node.op else node.kind}, no linear layer")
    x, weight = graph.operands(node)
    if graph.node(weight).kind != "param" or len(weight.type.row) != rank:
        raise Alone(f"%{weight.name} {weight.type} is no parameter of a feed-forward")
    for value in (y, weight):
        _reader(graph, value)
    return x, weight


def _routing(graph: Graph, node: Node, op: Experts | FusedExperts) -> tuple[Node, Routing]:
    """What chooses the experts of a node, and theirs alone."""
    _, index, weight, *weights = graph.operands(node)
    router = graph.node(index)
    if not isinstance(router.op, Routing) or router.results != (index, weight):
        raise Alone(f"%{index.name} and %{weight.name} are not what one router chose")
    for value in (index, weight, *weights):
        _reader(graph, value)
    count = router.op.experts(*(v.type for v in graph.operands(router))) + router.op.always
    if count != weights[-1].type.row[0] or router.op.always != op.always:
        raise Alone(f"%{index.name} counts {count} experts, there are {weights[-1].type.row[0]}")
    return router, router.op


def _count(
    rewriter: Rewriter, op: Experts | FusedExperts, operands: list[Value], shared: Shared
) -> Dim:
    """How many experts a feed-forward is."""
    x, *weights = operands
    for weight in weights:
        if not rewriter.is_param(weight):
            raise Alone(f"%{weight.name} is computed, not a parameter")
        if weight.type.dtype != x.type.dtype:
            raise Alone(f"%{weight.name} is {weight.type.dtype}, the shared part {x.type.dtype}")
    if shared.x != x:
        raise Alone(f"the experts are given %{x.name}, the shared part %{shared.x.name}")
    if shared.activation != op.activation:
        raise Alone(f"the activation is {op.activation}, of the shared part {shared.activation}")
    width, inner = shared.gate.shape[0], weights[-1].type.row[-1]
    try:
        return width // inner
    except GraphError:
        raise Alone(f"the shared width {width} is no multiple of an expert's {inner}") from None


def _packed(program: Program) -> Program:
    """Experts in one tensor, which others can stand behind."""
    return stacked(program) if isinstance(program, Each) else program


def _reader(graph: Graph, value: Value) -> Node:
    """The one node that reads a value."""
    readers = graph.users(value)
    if value in graph.outputs:
        raise Alone(f"%{value.name} is returned by the block")
    if not readers:
        raise Alone(f"%{value.name} is read by nothing")
    if len(readers) > 1:
        raise Alone(f"%{value.name} is read by %{readers[0].name}, and by %{readers[1].name}")
    return readers[0]
