"""The ops of a call, one a line: what computes each, how often, and what it takes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ..ir.cost import Cost, Sizes
from ..ir.count import runs
from ..ir.graph import Graph, Node, Value
from ..ir.model import HEAD, LOSS
from ..ir.op import Op
from ..ir.types import FLOATS
from ..machine.roofline import Floor, computed_in, floor
from .plan import Choice, Plan


@dataclass(frozen=True)
class Line:
    """One op of a block in one phase: its kernel, and what one run of it takes."""

    choice: Choice
    sizes: Sizes
    """Of the call, as the block sees it."""
    times: int
    """How often a call runs it."""
    work: Cost
    """What the op cannot avoid, whatever computes it."""
    cost: Cost
    """What its kernel says that it takes."""
    floor: Floor | None
    """None: the target does not state enough to say."""

    @property
    def block(self) -> str:
        return self.choice.block

    @property
    def node(self) -> str:
        return self.choice.node

    @property
    def op(self) -> str:
        return self.choice.op.name

    @property
    def kernel(self) -> str:
        return self.choice.kernel.name

    @property
    def refusals(self) -> tuple[tuple[str, str], ...]:
        """Other kernels, and why they are not taken."""
        return self.choice.refusals


def lines(plan: Plan, phase: str, sizes: Sizes) -> Iterator[Line]:
    """The ops of a call of the whole model, in the order of its blocks. In training, what has the
    loss stands in the place of the head."""
    times = runs(plan.model)
    order = [name for name, _ in plan.model.schedule]
    if phase == "train" and LOSS in plan.blocks:
        order[order.index(HEAD)] = LOSS
        times = {**times, LOSS: times[HEAD]}
    shared: set[Op] = set()
    called = [choice for choice in plan.choices if choice.block in order]  # not a draft's alone
    for choice in sorted(called, key=lambda choice: order.index(choice.block)):
        if choice.phase != phase:
            continue
        graph = plan.blocks[choice.block].graph(phase)
        count = times[choice.block]
        if _of_positions(graph, graph.node(choice.node)):
            if choice.op in shared:
                continue
            shared.add(choice.op)
            count = 1  # emitted once for all layers
        here = asked(choice.block, phase, sizes)
        work = choice.op.cost(here, *choice.operands)
        cost = choice.kernel.cost(choice.op, choice.operands, here, plan.target)
        least = floor(cost, computed_in(choice.operands), plan.target)
        yield Line(choice, here, count, work, cost, least)


def asked(block: str, phase: str, sizes: Sizes) -> Sizes:
    """The sizes of a call, as a block sees them: but for training, logits are wanted after the last
    token alone."""
    last = block == HEAD and phase != "train"
    return Sizes(sizes.batch, 1, sizes.context) if last else sizes


def wanted(graph: Graph) -> Mapping[str, tuple[str, ...]]:
    """Of each node of a graph that trains, by name, the operands whose gradients are computed:
    floats that are made of weights that are learnt, or of what came before."""
    return graph.once(_wanted)


def _wanted(graph: Graph) -> Mapping[str, tuple[str, ...]]:
    learnt: set[Value] = set()
    found: dict[str, tuple[str, ...]] = {}
    for node in graph.nodes():
        if node.op is None:
            learnt |= {value for value in node.results if value.type.dtype in FLOATS}
            continue
        operands = graph.operands(node)
        names = zip(node.op.named(len(operands)), operands, strict=True)
        found[node.name] = tuple(
            name for name, value in names if value in learnt and node.op.trained(name)
        )
        if found[node.name]:
            learnt |= {value for value in node.results if value.type.dtype in FLOATS}
    return found


def _of_positions(graph: Graph, node: Node) -> bool:
    operands = graph.operands(node)
    return all(graph.node(v).kind == "input" and v.name == "positions" for v in operands)
