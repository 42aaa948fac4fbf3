"""Tuning: each candidate of each kernel of a package measured, and the quickest kept as a table."""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from .emit.measure import Job, Machine, Measure, Times, Variant, timed, unlike
from .emit.package import emit_kernels
from .errors import ArchsmithError, EnvironmentMissing, OutputError, ProofError
from .files import write_text
from .machine.target import Target
from .machine.tuned import Address, Options, Table, Tile
from .packaged import Packaged, Watch
from .schedule.forecast import Demand
from .schedule.plan import Plan
from .schedule.rungs import Rung, rungs
from .spec.source import read

NOISE = 0.02  # what a candidate must win by: two runs of the same code differ by as much
EPS = {"bfloat16": 2.0**-7, "float16": 2.0**-10}  # of a rounding; else of float32's sums


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


def _job(package: Packaged, wanted: Sequence[Rung]) -> Job:
    """Every call of every rung, by as many packages as the most candidates: the first has each
    rung's first, the second each rung's second.

    Those of gradients are in packages of their own, so that what is differentiated is the same.
    """
    plan, templates = package.plan, package.compiler.registry.templates
    plans: dict[str, tuple[Plan, Collection[str]]] = {}
    for of_gradients in (False, True):
        alike = [rung for rung in wanted if rung.of_gradients == of_gradients]
        for i in range(max((len(rung.found) for rung in alike), default=0)):
            tiles: dict[Address, dict[int | None, Options]] = {}
            stems: set[str] = set()
            for rung in (rung for rung in alike if i < len(rung.found)):
                tiles.setdefault(rung.where, {})[rung.limit] = rung.found[i].options()
                stems |= {rung.kernel.stem(), *rung.kernel.parts}
            plans[_folder(of_gradients, i)] = replace(plan, tuned=tiles), stems
    folders = dict(zip(plans, emit_kernels(list(plans.values()), templates), strict=True))
    calls = [
        timed(
            f"{rung} {call}",
            rung.called,
            rung.op,
            rung.operands,
            call.phase,
            call.sizes,
            [
                Variant(str(i), _folder(rung.of_gradients, i), "kernel")
                for i in range(len(rung.found))
            ],
            plan.target,
            call.gradients,
            alone=True,
        )
        for rung in wanted
        for call in rung.calls
    ]
    return Job("cuda", plan.model.dtype, folders, calls)


def _folder(of_gradients: bool, i: int) -> str:
    return f"{'g' if of_gradients else 'v'}{i}"


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
        calls=[[c.sizes.batch, c.sizes.tokens, c.sizes.context] for c in rung.calls],
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
