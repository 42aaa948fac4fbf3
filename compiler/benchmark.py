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
from .schedule.forecast import Demand, Line, forecast
from .schedule.kernel import Kernel

KERNEL, PYTORCH, COMPILED = "kernel", "pytorch", "compiled"


@dataclass(frozen=True)
class Timing:
    """One computation of a phase: what it must take, and what it takes in each way."""

    phase: str
    lines: tuple[Line, ...]
    """The ops of the model that are this computation: alike in kernel, attributes and sizes."""
    dtype: str
    """That its contractions are computed in."""
    floor: Floor | None
    """Of its arithmetic and bytes alone, without a launch; None: the target states too little."""
    seconds: Mapping[str, float]
    """Of one run, by way: "kernel" (in Triton), "pytorch", "compiled" (that by torch.compile)."""
    failed: Mapping[str, str]
    """Why a way has no time."""
    differ: Mapping[str, float]
    """By how much results differ from the first way's: relative, of norms."""
    at_home: bool = True
    """Whether it was timed on what the floor is of."""

    @property
    def kernel(self) -> Kernel:
        return self.lines[0].choice.kernel

    @property
    def op(self) -> str:
        return self.lines[0].op

    @property
    def work(self) -> Cost:
        return self.lines[0].work

    @property
    def times(self) -> int:
        """How often a call of the model runs it."""
        return sum(line.times for line in self.lines)

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
            "kernel": self.kernel.name,
            "nodes": [f"{line.block}/{line.node}" for line in self.lines],
            "times": self.times,
            "flops": self.work.flops,
            "bytes": self.work.bytes,
            "floor_seconds": self.floor.seconds if self.floor else None,
            "bound": self.floor.bound if self.floor else None,
            "seconds": dict(self.seconds),
            "failed": dict(self.failed),
            "differ": dict(self.differ),
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

    Kernels are timed as they stand in the package's folder.
    """
    plan = package.plan
    lines = list(_computations(package, demand, phases))
    calls = []
    for i, (phase, alike) in enumerate(lines):
        choice, sizes = alike[0].choice, alike[0].sizes
        ways = [Variant(PYTORCH, "package", "reference")]
        ways += [Variant(KERNEL, "package", "kernel")] if choice.kernel.triton else []
        ways += [Variant(COMPILED, "package", "compiled")] if compile else []
        given = choice.kernel, choice.op, choice.operands
        calls.append(timed(str(i), *given, phase, sizes, ways, plan.target))
    device = "cuda" if plan.target.triton else "cpu"
    results = measure(Job(device, plan.model.dtype, {"package": package.kernels}, calls))
    machine = next(results)
    assert isinstance(machine, Machine)
    home = unlike(machine, plan.target) is None
    timings = []
    watch.begin("timing", len(lines))
    for (phase, alike), times in zip(lines, results, strict=True):
        assert isinstance(times, Times)
        dtype = computed_in(alike[0].choice.operands)
        least = floor(alike[0].work, dtype, plan.target)
        timings.append(
            Timing(phase, alike, dtype, least, times.seconds, times.failed, times.differ, home)
        )
        watch.advance(f"{alike[0].op}, timed")
    name, model = package.folder.resolve().name, plan.model.name
    return Benchmark(name, model, plan.target, demand, machine, tuple(timings))


def _computations(
    package: Packaged, demand: Demand, phases: Sequence[str]
) -> Iterator[tuple[str, tuple[Line, ...]]]:
    """Each phase's computations: the lines that one time is of."""
    known = forecast(package.plan, demand).phases
    for phase in phases:
        found: dict[Any, list[Line]] = {}
        for line in known[phase].lines:
            choice = line.choice
            if line.work.bytes and not choice.op.stateful:  # no view, and no cache's own
                key = choice.kernel.name, choice.op, choice.operands, line.sizes
                found.setdefault(key, []).append(line)
        yield from ((phase, tuple(lines)) for lines in found.values())
