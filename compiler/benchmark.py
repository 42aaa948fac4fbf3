"""A benchmark: each kernel of a package timed beside PyTorch, and held against its floor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .emit.measure import Job, Machine, Measure, Times, Variant, timed, unlike
from .ir.cost import Cost
from .machine.roofline import Floor, computed_in, floor
from .machine.target import Target
from .packaged import Packaged, Watch
from .schedule.forecast import Demand
from .schedule.kernel import Kernel
from .schedule.lines import Line, lines, wanted
from .schedule.plan import Plan

KERNEL, PYTORCH, COMPILED = "kernel", "pytorch", "compiled"


@dataclass(frozen=True)
class Computation:
    """What is timed of a phase: an op's results or their gradients, wherever a model has it."""

    phase: str
    lines: tuple[Line, ...]
    """The ops of the model that are this computation: alike in kernel, attributes and sizes."""
    gradients: tuple[str, ...]
    """Operands whose gradients it is; none: it is the op's results."""
    computed_by: str
    """The kernel, by name: of gradients without one of their own, that in PyTorch."""

    @property
    def work(self) -> Cost:
        """What it cannot avoid, whatever computes it."""
        line = self.lines[0]
        if self.gradients:
            choice = line.choice
            return choice.op.gradient_cost(line.sizes, self.gradients, *choice.operands)
        return line.work

    @property
    def dtype(self) -> str:
        """That its contractions are computed in."""
        return computed_in(self.lines[0].choice.operands)


@dataclass(frozen=True)
class Timing:
    """One computation: what it must take, and what it takes in each way."""

    of: Computation
    floor: Floor | None
    """Of its arithmetic and bytes alone, without a launch; None: the target states too little."""
    seconds: Mapping[str, float]
    """Of one run, by way: "kernel" (in Triton), "pytorch", "compiled" (that by torch.compile)."""
    failed: Mapping[str, str]
    """Why a way has no time."""
    differ: Mapping[str, float]
    """By how much results differ from the first way's: relative, of norms."""
    uncaptured: Sequence[str] = ()
    """Ways whose calls on a GPU are no CUDA graph, so that each may wait for the host."""
    at_home: bool = True
    """Whether it was timed on what the floor is of."""

    @property
    def phase(self) -> str:
        return self.of.phase

    @property
    def kernel(self) -> Kernel:
        """What is called: of gradients too, that whose results they are of."""
        return self.of.lines[0].choice.kernel

    @property
    def op(self) -> str:
        return self.of.lines[0].op

    @property
    def times(self) -> int:
        """How often a call of the model runs it."""
        return sum(line.times for line in self.of.lines)

    @property
    def taken(self) -> float | None:
        """Seconds of what the package runs here: its kernel, or else PyTorch."""
        return self.seconds.get(KERNEL if self.kernel.triton else PYTORCH)

    @property
    def reached(self) -> float | None:
        """The part of the time taken that no kernel could save."""
        if self.floor is None or not self.taken or not self.at_home:
            return None
        return self.floor.seconds / self.taken

    def json(self) -> dict[str, Any]:
        return {
            "phase": self.phase,
            "op": self.op,
            "gradients": list(self.of.gradients),
            "kernel": self.of.computed_by,
            "nodes": [f"{line.block}/{line.node}" for line in self.of.lines],
            "times": self.times,
            "flops": self.of.work.flops,
            "bytes": self.of.work.bytes,
            "floor_seconds": self.floor.seconds if self.floor else None,
            "bound": self.floor.bound if self.floor else None,
            "seconds": dict(self.seconds),
            "failed": dict(self.failed),
            "differ": dict(self.differ),
            "uncaptured": list(self.uncaptured),
        }


@dataclass(frozen=True)
class Benchmark:
    """What was timed of a package, and on what."""

    package: str
    model: str
    target: Target
    demand: Demand
    machine: Machine
    timings: tuple[Timing, ...]

    def json(self) -> dict[str, Any]:
        return {
            "package": self.package,
            "model": self.model,
            "target": self.target.name,
            "batch": self.demand.batch,
            "context": self.demand.context,
            "machine": vars(self.machine),
            "timings": [timing.json() for timing in self.timings],
        }


def benchmark(
    package: Packaged,
    demand: Demand,
    phases: Sequence[str],
    measure: Measure,
    watch: Watch,
    *,
    compile: bool = True,
) -> Benchmark:
    """Time every computation of these phases, but views and what a cache does; raises as `measure`.

    Kernels are timed as they stand in the package's folder. In training, gradients are timed apart
    from the results that they are of.
    """
    plan = package.plan
    every = [found for phase in phases for found in _computations(plan, demand, phase)]
    calls = []
    for i, found in enumerate(every):
        choice, sizes = found.lines[0].choice, found.lines[0].sizes
        ways = [Variant(PYTORCH, "package", "reference")]
        ways += [Variant(KERNEL, "package", "kernel")] if choice.kernel.triton else []
        ways += [Variant(COMPILED, "package", "compiled")] if compile else []
        given = choice.kernel, choice.op, choice.operands
        called = timed(
            str(i), *given, found.phase, sizes, ways, plan.target, found.gradients, alone=True
        )
        calls.append(called)
    device = "cuda" if plan.target.triton else "cpu"
    results = measure(Job(device, plan.model.dtype, {"package": package.kernels}, calls))
    machine = next(results)
    assert isinstance(machine, Machine)
    home = unlike(machine, plan.target) is None
    timings = []
    watch.begin("timing", len(every))
    for found, times in zip(every, results, strict=True):
        assert isinstance(times, Times)
        least = floor(found.work, found.dtype, plan.target)
        eager = times.uncaptured if machine.device == "cuda" else ()  # a CPU has no graphs
        measured = times.seconds, times.failed, times.differ, eager
        timings.append(Timing(found, least, *measured, home))
        watch.advance(f"{found.lines[0].op}, timed")
    name, model = package.folder.resolve().name, plan.model.name
    return Benchmark(name, model, plan.target, demand, machine, tuple(timings))


def _computations(plan: Plan, demand: Demand, phase: str) -> Iterator[Computation]:
    """A phase's computations, each of several lines once: gradients behind their results."""
    found: dict[Any, list[Line]] = {}
    for line in lines(plan, phase, demand.sizes(phase)):
        choice = line.choice
        if not line.work.bytes or choice.op.keeps:  # a view, and a cache's own
            continue
        alike = choice.kernel.name, choice.op, choice.operands, line.sizes
        found.setdefault((alike, ()), []).append(line)
        if phase != "train":
            continue
        names = wanted(plan.blocks[line.block].graph(phase)).get(line.node, ())
        if names and choice.op.gradient_cost(line.sizes, names, *choice.operands).bytes:
            found.setdefault((alike, names), []).append(line)
    for (_, names), its in found.items():
        kernel = its[0].choice.kernel
        if names:
            *_, reference = plan.chain(kernel)
            kernel = plan.gradients.get(kernel.name, reference)
        yield Computation(phase, tuple(its), names, kernel.name)
