"""From a model to a plan: which kernel computes each op in each phase, and why no other does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from ..errors import ArchsmithError, PluginError
from ..ir.cost import Cost, Sizes
from ..ir.model import Block, Model
from ..ir.weights import Each
from ..machine.roofline import floor, order
from ..machine.target import Target
from ..machine.tuned import Tiles
from ..ops.loss import LinearCrossEntropy
from .kernel import GradientKernel, Kernel, blamed, untrained
from .loss import loss_block
from .plan import CALLS, Choice, Plan


def select(
    model: Model,
    kernels: Mapping[str, type[Kernel]],
    target: Target,
    calls: Mapping[str, Sizes] = CALLS,
    tuned: Tiles = MappingProxyType({}),
) -> Plan:
    """Take, for every op and phase, the kernel that takes least of those that do not refuse.

    Its tiles are those that `tuned` says were quickest, where they are among the kernel's own.
    Raises `ArchsmithError` where all refuse, with their reasons.
    """
    by_op: dict[str, list[Kernel]] = {}
    for key in sorted(kernels):
        if not issubclass(kernels[key], GradientKernel):
            by_op.setdefault(kernels[key].implements, []).append(kernels[key]())
    found = [k() for _, k in sorted(kernels.items()) if issubclass(k, GradientKernel)]
    loss = loss_block(model) if LinearCrossEntropy.name in by_op else None
    choices: list[Choice] = []
    for block in (*model.blocks.values(), *([] if loss is None else [loss])):
        for phase in (phase for phases in block.graphs for phase in phases):
            choices += _chosen(block, phase, by_op, found, target, calls[phase], model.dtype)
    references = _references(choices, kernels)
    gradients = {name: k for k in found for name in _differentiated(k, choices, target)}
    return Plan(model, target, tuple(choices), calls, references, tuned, gradients, loss)


def _references(choices: list[Choice], kernels: Mapping[str, type[Kernel]]) -> tuple[Kernel, ...]:
    """The kernels that others call where they cannot run, and those that these call, by name."""
    found: dict[str, Kernel] = {}
    steps = [s.kernel for c in choices for s in c.kernel.beside(c.op, c.operands)]
    for kernel in {
        kernel.name: kernel for kernel in (*(c.kernel for c in choices), *steps)
    }.values():
        names = [kernel.name]
        while kernel.reference:
            names.append(kernel.reference)
            if len(set(names)) < len(names):
                raise PluginError(f"kernels stand in for themselves: {', '.join(names)}")
            with blamed(kernel):
                kernel = kernels[kernel.reference]()
            found[kernel.name] = kernel
    return tuple(found[name] for name in sorted(found))


def _differentiated(kernel: GradientKernel, choices: list[Choice], target: Target) -> set[str]:
    """The kernels that a model trains with whose gradients this one computes, and the one that it
    was written for, which may stand in for them; none where it does not serve all of them."""
    asked = [
        choice
        for choice in choices
        if choice.phase == "train"
        and (choice.kernel.name == kernel.differentiates or choice.kernel.gradient == kernel.name)
    ]
    with blamed(kernel):
        if not asked or any(kernel.refuses(c.op, c.operands, target) for c in asked):
            return set()
    return {kernel.differentiates, *(choice.kernel.name for choice in asked)}


def _chosen(
    block: Block,
    phase: str,
    by_op: Mapping[str, list[Kernel]],
    gradients: Sequence[GradientKernel],
    target: Target,
    sizes: Sizes,
    dtype: str,
) -> Iterator[Choice]:
    """The choices for one block in one phase."""
    graph = block.graph(phase)
    lists = {name for name, p in block.params.items() if isinstance(p.program, Each)}
    for node in graph.nodes():
        if node.op is None:
            continue
        types = tuple(value.type for value in graph.operands(node))
        refusals: dict[str, str] = {}
        costs: dict[str, Cost] = {}
        able: dict[str, Kernel] = {}
        for kernel in by_op.get(node.op.name, []):
            with blamed(kernel):
                reason = kernel.refuses(node.op, types, target)
            if reason is None and phase not in kernel.phases:
                reason = f"it serves {' and '.join(kernel.phases)} only"
            if reason is None and phase == "train" and kernel.gradient:
                reason = untrained(kernel, gradients, node.op, types, target)
            for value in graph.operands(node):
                if kernel.packed and value.name in lists:
                    reason = f"the experts of %{value.name} are not packed into one tensor"
            if reason is not None:
                refusals[kernel.name] = reason
                continue
            able[kernel.name] = kernel
            with blamed(kernel):
                costs[kernel.name] = kernel.cost(node.op, types, sizes, target)
        if not able:
            why = "; ".join(f"{name}: {reason}" for name, reason in refusals.items())
            raise ArchsmithError(
                f"no kernel computes {node.op.name} of block {block.name}, %{node.name}"
                f" ({why or 'none implements it'})"
            )
        # Of two that take the same, one in Triton: it may yet be tuned.
        best = min(able, key=lambda n: (*order(costs[n], dtype, target), not able[n].triton, n))
        for name in able:
            if name != best:
                told = (_told(costs[n], dtype, target) for n in (name, best))
                refusals[name] = "takes {}, {best} {}".format(*told, best=best)
        others = tuple(sorted(refusals.items()))
        yield Choice(block.name, phase, node.name, node.op, types, able[best], others)


def _told(cost: Cost, dtype: str, target: Target) -> str:
    """What a way to compute an op takes, in words."""
    found = floor(cost, dtype, target)
    if found is None:
        return f"{cost.bytes:,.0f} bytes"
    return f"{found.seconds * 1e6:,.1f} us"
