"""A model, and which kernel computes each of its ops in each phase."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from ..ir.cost import Sizes
from ..ir.model import LOSS, PHASES, Block, Model
from ..ir.op import Op
from ..ir.types import TensorType
from ..machine.target import Target
from ..machine.tuned import Tiles
from .candidates import address, candidates, use
from .kernel import GradientKernel, Kernel, Step, Use

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
        kernels = *self.used(), *(step.kernel for step in self.steps(*self.choices))
        found = {other.name: other for kernel in kernels for other in self.chain(kernel)}
        yield from (found[name] for name in sorted(found) if found[name].triton)

    def emitted(self) -> Iterator[Kernel]:
        """Each kernel that has a file in the package once, by name."""
        steps = (step.kernel for step in self.steps(*self.choices))
        others = *steps, *self.references, *self.gradients.values()
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
        for step in self.steps(*self.choices):
            if not differentiates and name in (k.name for k in self.chain(step.kernel)):
                found.setdefault((step.op, step.operands), self.taken(replace(step, kernel=kernel)))
        return tuple(found.values())

    def compiled(self) -> Iterator[tuple[Choice, Kernel]]:
        """Each choice with its kernel, and with that of its gradients where it trains with one."""
        for choice in self.choices:
            yield choice, choice.kernel
            if choice.phase == "train" and choice.kernel.name in self.gradients:
                yield choice, self.gradients[choice.kernel.name]

    def steps(self, *choices: Choice) -> Iterator[Step]:
        """What the files of the kernels of some choices have others compute."""
        for choice in choices:
            for kernel in self.chain(choice.kernel):
                yield from kernel.beside(choice.op, choice.operands)

    def taken(self, step: Step) -> Use:
        """What a step is compiled with."""
        return use(step.kernel, step.op, step.operands, self.target, self.tuned)

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


def stale(plan: Plan) -> list[str]:
    """What a table says of the plan's kernels that is not used, since they do not offer it."""
    found = {}
    for choice, kernel in plan.compiled():
        where = address(kernel, choice.op, choice.operands)
        if not kernel.triton or where not in plan.tuned:
            continue
        rungs = dict(kernel.rungs())
        for limit, options in plan.tuned[where].items():
            offered = limit in rungs and candidates(
                kernel, choice.op, choice.operands, rungs[limit], plan.target
            )
            if not offered or all(config.options() != options for config in offered):
                rows = "any number of" if limit is None else f"up to {limit:,}"
                sizes = ", ".join(map(str, where[2]))
                found[where, limit] = (
                    f"measured tiles of {where[0]} ({sizes}) for {rows} rows are stale:"
                    f" the kernel does not offer {dict(options)} here"
                )
    return list(found.values())
