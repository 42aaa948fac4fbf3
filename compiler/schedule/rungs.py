"""What there is to choose for a plan: for each kernel and number of rows, its candidates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..ir.cost import Sizes
from ..ir.op import Op
from ..ir.types import TensorType
from ..machine.tuned import Address
from .candidates import address, candidates
from .forecast import Demand
from .kernel import Config, GradientKernel, Kernel
from .lines import wanted
from .plan import Choice, Plan


@dataclass(frozen=True)
class Call:
    """A call by which candidates are told apart."""

    phase: str
    sizes: Sizes
    gradients: tuple[str, ...] = ()
    """Operands whose gradients are timed, without what they are of; none: the op's results are."""

    def __str__(self) -> str:
        return f"{self.phase} {self.sizes}" + " backward" * bool(self.gradients)


@dataclass(frozen=True)
class Rung:
    """One thing to choose: a kernel's tiles for one op and calls of up to so many rows."""

    kernel: Kernel
    called: Kernel
    """Itself, or of gradients, the kernel of what they are of."""
    op: Op
    operands: tuple[TensorType, ...]
    limit: int | None
    found: Sequence[Config]
    calls: Sequence[Call]
    """Those that are timed."""

    @property
    def where(self) -> Address:
        return address(self.kernel, self.op, self.operands)

    @property
    def of_gradients(self) -> bool:
        return isinstance(self.kernel, GradientKernel)

    def __str__(self) -> str:
        _, dtype, sizes = self.where
        rows = "" if self.limit is None else f", {self.limit:,} rows"
        return f"{self.kernel.name} {dtype} ({', '.join(map(str, sizes))}){rows}"


def rungs(plan: Plan, demand: Demand) -> Iterator[Rung]:
    """All that there is to choose for a plan, each once: where there are two candidates or more."""
    alike: dict[Address, list[tuple[Choice, Kernel]]] = {}
    for choice, kernel in plan.compiled():
        if kernel.triton and not choice.op.keeps:
            where = address(kernel, choice.op, choice.operands)
            alike.setdefault(where, []).append((choice, kernel))
    for every in alike.values():
        choice, kernel = every[0]
        for limit, rows in kernel.rungs():
            found = candidates(kernel, choice.op, choice.operands, rows, plan.target)
            if len(found) > 1:
                calls = list(_calls(plan, [choice for choice, _ in every], kernel, limit, demand))
                given = choice.op, choice.operands, limit, found
                yield Rung(kernel, choice.kernel, *given, calls)


def _calls(
    plan: Plan, choices: Sequence[Choice], kernel: Kernel, limit: int | None, demand: Demand
) -> Iterator[Call]:
    """What is timed of a rung: a call of its rows, or, where they make no difference, one of each
    phase; and one of its gradients, where their kernel has these tiles too."""
    trained = next((choice for choice in choices if choice.phase == "train"), None)
    if isinstance(kernel, GradientKernel):
        assert trained is not None
        yield _backward(plan, trained, kernel, limit, demand)
        return
    phases = [*dict.fromkeys("prefill" if c.phase == "train" else c.phase for c in choices)]
    if kernel.ladder:
        phases = ["prefill" if "prefill" in phases else phases[0]]
    for phase in phases:
        yield Call(phase, _sizes(choices[0], kernel, limit, demand.sizes(phase)))
    gradient = plan.gradients.get(kernel.name)
    if trained is not None and gradient is not None and not plan.use(trained, gradient).tiles:
        yield _backward(plan, trained, kernel, limit, demand)


def _backward(
    plan: Plan, choice: Choice, kernel: Kernel, limit: int | None, demand: Demand
) -> Call:
    """A call of the gradients of what a choice computes."""
    operands = wanted(plan.blocks[choice.block].graph("train"))[choice.node]
    return Call("train", _sizes(choice, kernel, limit, demand.sizes("train")), operands)


def _sizes(choice: Choice, kernel: Kernel, limit: int | None, usual: Sizes) -> Sizes:
    """A call that a rung serves."""
    if not kernel.ladder:
        return usual
    rows = limit or max(2 * kernel.ladder[-1], usual.rows)
    return kernel.example(choice.op, choice.operands, rows, usual)
