"""Tuning: each candidate of each kernel of a package measured, and the quickest kept as a table."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path

from .emit.measure import Job, Machine, Measure, Times, Variant, timed, unlike
from .emit.package import emit_kernels
from .errors import ArchsmithError, EnvironmentMissing, OutputError, ProofError
from .files import write_text
from .ir.cost import Sizes
from .ir.op import Op
from .ir.types import TensorType
from .machine.target import Target
from .machine.tuned import Address, Options, Table, Tile
from .packaged import Packaged, Watch
from .schedule.candidates import address, candidates
from .schedule.forecast import Demand
from .schedule.kernel import Config, Kernel
from .schedule.plan import Plan
from .spec.source import read

NOISE = 0.02  # what a candidate must win by: two runs of the same code differ by as much
EPS = {"bfloat16": 2.0**-7, "float16": 2.0**-10}  # of a rounding; else of float32's sums


@dataclass(frozen=True)
class Rung:
    """One thing to choose: a kernel's tiles for one op and calls of up to so many rows."""

    kernel: Kernel
    op: Op
    operands: tuple[TensorType, ...]
    limit: int | None
    found: Sequence[Config]
    calls: Sequence[tuple[str, Sizes]]
    """Phases and sizes of the calls that are timed."""

    @property
    def where(self) -> Address:
        return address(self.kernel, self.op, self.operands)

    def __str__(self) -> str:
        _, dtype, sizes = self.where
        rows = "" if self.limit is None else f", {self.limit:,} rows"
        return f"{self.kernel.name} {dtype} ({', '.join(map(str, sizes))}){rows}"


def tune(
    package: Packaged, output: Path, demand: Demand, measure: Measure, watch: Watch
) -> tuple[Table, list[str]]:
    """Measure what `output` does not hold yet, and write it there as it comes.

    Returns the table, and what was noted of candidates that do not run. Raises `ArchsmithError`
    where there is nothing to choose or the file is another's table, `EnvironmentMissing` without
    the target's GPU, `ProofError` where a candidate computes something else.
    """
    plan = package.plan
    every = list(rungs(plan, demand))
    if not every:
        raise ArchsmithError(
            f"{package.folder} has no Triton kernel to tune: it was built for {plan.target.name}\n"
            "  = help: build it for a GPU with --target"
        )
    old = Table.of(read(output)) if output.exists() else None
    if old is not None and old.target != plan.target.name:
        raise ArchsmithError(f"{output} is of {old.target}, not of {plan.target.name}; see -o")
    wanted = [rung for rung in every if old is None or not _holds(old, rung)]
    if old is not None and not wanted:
        return old, []
    results = measure(_job(package, wanted))
    machine = next(results)
    assert isinstance(machine, Machine)
    if reason := unlike(machine, plan.target):
        raise EnvironmentMissing(
            f"{reason}\n  = help: tune where the package is to run; without a table, `build` takes"
            " the tiles that the roofline puts first"
        )
    table = _begun(old, machine, plan.target, output)
    notes: list[str] = []
    wrong: list[str] = []
    watch.begin(str(wanted[0]), len(wanted))
    for rung, after in zip(wanted, [*map(str, wanted[1:]), "done"], strict=True):
        times = []
        for _ in rung.calls:
            found = next(results)
            assert isinstance(found, Times)
            times.append(found)
        notes += (f"{rung}: {note}" for note in _failures(rung, times))
        wrong += (f"{rung}: {options}" for options in _wrong(rung, times))
        if (tile := best(rung, times)) is not None:
            table = table.adding(rung.where, tile)
            _replace(output, table.text())
        watch.advance(after)
    if wrong:
        raise ProofError(
            "candidates compute something else than the first, and are in no table:\n  "
            + "\n  ".join(wrong)
        )
    return table, notes


def rungs(plan: Plan, demand: Demand) -> Iterator[Rung]:
    """All that there is to choose for a plan, each once: where there are two candidates or more."""
    met: set[Address] = set()
    for choice in plan.choices:
        kernel, where = choice.kernel, address(choice.kernel, choice.op, choice.operands)
        if not kernel.triton or choice.op.stateful or where in met:
            continue
        met.add(where)
        same = [c for c in plan.choices if address(c.kernel, c.op, c.operands) == where]
        phases = dict.fromkeys("prefill" if c.phase == "train" else c.phase for c in same)
        for limit, rows in kernel.rungs():
            found = candidates(kernel, choice.op, choice.operands, rows, plan.target)
            if len(found) > 1:
                given = choice.op, choice.operands
                calls = list(_calls(kernel, *given, limit, tuple(phases), demand))
                yield Rung(kernel, *given, limit, found, calls)


def _calls(
    kernel: Kernel,
    op: Op,
    operands: tuple[TensorType, ...],
    limit: int | None,
    phases: tuple[str, ...],
    demand: Demand,
) -> Iterator[tuple[str, Sizes]]:
    """What is timed of a rung: a call of its rows, or, where they make no difference, one of each
    phase."""
    if not kernel.ladder:
        yield from ((phase, demand.sizes(phase)) for phase in phases)
        return
    phase = "prefill" if "prefill" in phases else phases[0]
    usual = demand.sizes(phase)
    rows = limit or max(2 * kernel.ladder[-1], usual.rows)
    yield phase, kernel.example(op, operands, rows, usual)


def _job(package: Packaged, wanted: Sequence[Rung]) -> Job:
    """Every call of every rung, by as many packages as the most candidates: the first has each
    rung's first, the second each rung's second."""
    plan, templates = package.plan, package.compiler.registry.templates
    plans: list[tuple[Plan, Collection[str]]] = []
    for i in range(max(len(rung.found) for rung in wanted)):
        tiles: dict[Address, dict[int | None, Options]] = {}
        for rung in wanted:
            if i < len(rung.found):
                tiles.setdefault(rung.where, {})[rung.limit] = rung.found[i].options()
        changed = [rung.kernel for rung in wanted if i < len(rung.found)]
        stems = {stem for kernel in changed for stem in (kernel.stem(), *kernel.parts)}
        plans.append((replace(plan, tuned=tiles), stems))
    texts = emit_kernels(plans, templates)
    folders = {f"v{i}": files for i, files in enumerate(texts)}
    calls = [
        timed(
            f"{rung} {phase} {sizes}",
            rung.kernel,
            rung.op,
            rung.operands,
            phase,
            sizes,
            [Variant(str(i), f"v{i}", "kernel") for i in range(len(rung.found))],
            plan.target,
        )
        for rung in wanted
        for phase, sizes in rung.calls
    ]
    return Job("cuda", plan.model.dtype, folders, calls)


def best(rung: Rung, times: Sequence[Times]) -> Tile | None:
    """The candidate that takes least, all calls alike in weight; None where the first does not run.

    Another than the first must win by more than `NOISE`.
    """
    if any("0" not in each.seconds for each in times):
        return None
    wrong = set(_wrong(rung, times))
    ratios = {"0": 1.0}
    for i, config in enumerate(rung.found):
        name = str(i)
        if i and all(name in each.seconds for each in times) and str(config.options()) not in wrong:
            parts = (each.seconds[name] / each.seconds["0"] for each in times)
            ratios[name] = math.prod(parts) ** (1 / len(times))
    quickest = min(ratios, key=lambda name: (ratios[name], int(name)))
    name = quickest if ratios[quickest] < 1 - NOISE else "0"
    return Tile(
        rows=rung.limit,
        options=rung.found[int(name)].options(),
        calls=[[sizes.batch, sizes.tokens, sizes.context] for _, sizes in rung.calls],
        us=[round(each.seconds[name] * 1e6, 3) for each in times],
        default_us=[round(each.seconds["0"] * 1e6, 3) for each in times],
    )


def _wrong(rung: Rung, times: Sequence[Times]) -> list[str]:
    """The options that give other results than the first, by more than both may be rounded."""
    close = 2 * EPS.get(rung.operands[0].dtype, 1e-5)
    names = {n for each in times for n, by in each.differ.items() if not by <= close}
    return [str(rung.found[int(name)].options()) for name in sorted(names, key=int)]


def _failures(rung: Rung, times: Sequence[Times]) -> list[str]:
    """Which candidates do not run, and why."""
    failed = {name: why for each in times for name, why in each.failed.items()}
    return [f"{rung.found[int(name)].options()} does not run: {failed[name]}" for name in failed]


def _holds(table: Table, rung: Rung) -> bool:
    """Whether a table has a tile of this rung that its kernel still offers."""
    options = table.tiles.get(rung.where, {}).get(rung.limit)
    return any(config.options() == options for config in rung.found)


def _begun(old: Table | None, machine: Machine, target: Target, output: Path) -> Table:
    """The table to go on with; raises `ArchsmithError` where it was measured with other things."""
    facts = {key: getattr(machine, key) for key in ("card", "driver", "torch", "triton")}
    if old is None:
        return Table(target=target.name, date=date.today().isoformat(), kernels=[], **facts)
    for key, value in facts.items():
        if getattr(old, key) != value:
            raise ArchsmithError(
                f"{output} was measured with {key} {getattr(old, key)!r}, not {value!r} as here\n"
                "  = help: name another file with -o, or remove this one to measure all anew"
            )
    return old


def _replace(path: Path, text: str) -> None:
    """Write a file whole or not at all, so that a kill leaves what was measured before."""
    part = path.with_name(f".{path.name}.part")
    write_text(text, part)
    try:
        os.replace(part, path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}") from None
