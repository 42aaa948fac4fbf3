"""From a model to a plan: which kernel computes each op in each phase, and why no other does."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from types import MappingProxyType

from ..errors import ArchsmithError, PluginError
from ..ir.cost import Cost, Sizes
from ..ir.model import LOSS, PHASES, Block, Model
from ..ir.op import Op
from ..ir.types import TensorType
from ..ir.weights import Each
from ..machine.roofline import floor, order
from ..machine.target import Target
from ..machine.tuned import Address, Tiles
from ..ops.loss import LinearCrossEntropy
from .kernel import Config, GradientKernel, Kernel, Use, blamed, untrained
from .loss import loss_block

CALLS: Mapping[str, Sizes] = {phase: Sizes.usual(phase) for phase in PHASES}
"""The calls that kernels are chosen for, where nothing is said of them."""


@dataclass(frozen=True)
class Choice:
    """The kernel of one op of a block in one phase, and why each other one was not taken."""

    block: str
    phase: str
    node: str
    op: Op
    operands: tuple[TensorType, ...]
    kernel: Kernel
    refusals: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Plan:
    """A model, and the kernel of each of its ops in each phase."""

    model: Model
    target: Target
    choices: tuple[Choice, ...]
    calls: Mapping[str, Sizes] = field(default_factory=lambda: dict(CALLS))
    references: tuple[Kernel, ...] = ()
    """Kernels that no op was given, but that are the path elsewhere of one that was."""
    tuned: Tiles = field(default_factory=dict)
    """Tiles that were measured; those that are no candidates here are not used."""
    gradients: Mapping[str, GradientKernel] = field(default_factory=dict)
    """By the name of the kernel whose gradients each computes."""
    loss: Block | None = None
    """What the model is trained by, where that needs no logits."""

    @cached_property
    def blocks(self) -> Mapping[str, Block]:
        """The blocks that have kernels: the model's, and that of the loss."""
        return {**self.model.blocks, **({} if self.loss is None else {LOSS: self.loss})}

    def kernels(
        self, block: str, phases: tuple[str, ...], node: str
    ) -> list[tuple[tuple[str, ...], Kernel]]:
        """The kernels of a node in these phases, each with the phases it serves."""
        found: dict[str, tuple[tuple[str, ...], Kernel]] = {}
        for choice in self._choices[block, node]:
            if choice.phase in phases:
                served, _ = found.get(choice.kernel.name, ((), choice.kernel))
                found[choice.kernel.name] = (*served, choice.phase), choice.kernel
        return list(found.values())

    def used(self) -> Iterator[Kernel]:
        """Each kernel that an op was given once, by name."""
        found = {choice.kernel.name: choice.kernel for choice in self.choices}
        yield from (found[name] for name in sorted(found))

    def launched(self) -> Iterator[Kernel]:
        """Each Triton kernel that an op was given, or that stands in for such a one, by name."""
        found = {other.name: other for kernel in self.used() for other in self.chain(kernel)}
        yield from (found[name] for name in sorted(found) if found[name].triton)

    def emitted(self) -> Iterator[Kernel]:
        """Each kernel that has a file in the package once, by name."""
        others = *self.references, *self.gradients.values()
        found = {kernel.name: kernel for kernel in (*self.used(), *others)}
        yield from (found[name] for name in sorted(found) if found[name].functions)

    def uses(self, kernel: Kernel) -> tuple[Use, ...]:
        """What a kernel computes in the package: each kind of op and operands once."""
        differentiates = isinstance(kernel, GradientKernel)
        name = kernel.differentiates if isinstance(kernel, GradientKernel) else kernel.name
        found = {
            (choice.op, choice.operands): self.use(choice, kernel)
            for choice in self.choices
            if name in (k.name for k in self.chain(choice.kernel))
            and (choice.phase == "train" or not differentiates)
        }
        return tuple(found.values())

    def chain(self, kernel: Kernel) -> Iterator[Kernel]:
        """A kernel, what computes in its place where it cannot run, and so on to PyTorch."""
        yield kernel
        for other in self.references:
            if other.name == kernel.reference:
                yield from self.chain(other)

    def use(self, choice: Choice, kernel: Kernel | None = None) -> Use:
        """What a choice is compiled with, or what its gradients are, where a kernel of them is
        given."""
        kernel = kernel or choice.kernel
        key = kernel.name, choice.op, choice.operands
        if key not in self._uses:
            self._uses[key] = use(kernel, choice.op, choice.operands, self.target, self.tuned)
        return self._uses[key]

    @cached_property
    def _uses(self) -> dict[tuple[str, Op, tuple[TensorType, ...]], Use]:
        return {}

    @cached_property
    def _choices(self) -> dict[tuple[str, str], list[Choice]]:
        found: dict[tuple[str, str], list[Choice]] = {}
        for choice in self.choices:
            found.setdefault((choice.block, choice.node), []).append(choice)
        return found


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
    gradients = {k.differentiates: k for k in found if _differentiates(k, choices, target)}
    return Plan(model, target, tuple(choices), calls, references, tuned, gradients, loss)


def _references(choices: list[Choice], kernels: Mapping[str, type[Kernel]]) -> tuple[Kernel, ...]:
    """The kernels that others call where they cannot run, and those that these call, by name."""
    found: dict[str, Kernel] = {}
    for kernel in {choice.kernel.name: choice.kernel for choice in choices}.values():
        names = [kernel.name]
        while kernel.reference:
            names.append(kernel.reference)
            if len(set(names)) < len(names):
                raise PluginError(f"kernels stand in for themselves: {', '.join(names)}")
            with blamed(kernel):
                kernel = kernels[kernel.reference]()
            found[kernel.name] = kernel
    return tuple(found[name] for name in sorted(found))


def _differentiates(kernel: GradientKernel, choices: list[Choice], target: Target) -> bool:
    """Whether a model trains with the other kernel, and this one serves all that it trains."""
    asked = [c for c in choices if (c.kernel.name, c.phase) == (kernel.differentiates, "train")]
    with blamed(kernel):
        return bool(asked) and not any(kernel.refuses(c.op, c.operands, target) for c in asked)


def use(
    kernel: Kernel,
    op: Op,
    operands: tuple[TensorType, ...],
    target: Target,
    tuned: Tiles = MappingProxyType({}),
) -> Use:
    """A kernel's tiles for one op: for each number of rows the configuration that was measured to
    be best, where it is one of the kernel's own, or else the first of those."""
    measured = tuned.get(address(kernel, op, operands), {}) if kernel.triton else {}
    tiles: list[tuple[int | None, Config]] = []
    for limit, rows in kernel.rungs():
        found = candidates(kernel, op, operands, rows, target, None if limit in measured else 1)
        if not found:
            continue
        best = next((c for c in found if c.options() == measured.get(limit)), None)
        best = found[0] if best is None else replace(best, measured=True)
        if tiles and tiles[-1][1] == best:
            _, last = tiles.pop()
            best = replace(best, measured=best.measured and last.measured)
        tiles.append((limit, best))
    return Use(op, operands, tuple(tiles))


def candidates(
    kernel: Kernel,
    op: Op,
    operands: tuple[TensorType, ...],
    rows: int,
    target: Target,
    most: int | None = None,
) -> list[Config]:
    """What a kernel may be compiled with for calls of about so many rows, each once, best first."""
    found: dict[tuple[tuple[str, int], ...], Config] = {}
    with blamed(kernel):
        for config in islice(kernel.configs(op, operands, rows, target), most):
            found.setdefault(tuple(sorted(config.options().items())), config)
    return list(found.values())


def address(kernel: Kernel, op: Op, operands: tuple[TensorType, ...]) -> Address:
    """Where a table of measured tiles has those of an op."""
    with blamed(kernel):
        return kernel.name, operands[0].dtype if operands else "", kernel.key(op, operands)


def stale(plan: Plan) -> list[str]:
    """What a table says of the plan's kernels that is not used, since they do not offer it."""
    found = {}
    for choice in plan.choices:
        where = address(choice.kernel, choice.op, choice.operands)
        if not choice.kernel.triton or where not in plan.tuned:
            continue
        rungs = dict(choice.kernel.rungs())
        for limit, options in plan.tuned[where].items():
            offered = limit in rungs and candidates(
                choice.kernel, choice.op, choice.operands, rungs[limit], plan.target
            )
            if not offered or all(config.options() != options for config in offered):
                rows = "any number of" if limit is None else f"up to {limit:,}"
                sizes = ", ".join(map(str, where[2]))
                found[where, limit] = (
                    f"measured tiles of {where[0]} ({sizes}) for {rows} rows are stale:"
                    f" the kernel does not offer {dict(options)} here"
                )
    return list(found.values())


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
