"""A benchmark for people: as tables, and as a picture."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from .benchmark import COMPILED, KERNEL, PYTORCH, Benchmark, Timing
from .emit.measure import unlike
from .errors import ArchsmithError, EnvironmentMissing, OutputError

WIDTH = 160  # at most, where stdout is no terminal
FORMATS = (".svg", ".png")
COLUMNS = {KERNEL: "kernel, us", PYTORCH: "PyTorch, us", COMPILED: "compiled, us"}


def show(found: Benchmark) -> None:
    """Print to stdout: on what was timed, then a table for each phase."""
    width = None if sys.stdout.isatty() else WIDTH
    console = Console(file=sys.stdout, highlight=False, width=width)
    machine = found.machine
    versions = f"torch {machine.torch}" + f", triton {machine.triton}" * bool(machine.triton)
    console.print(f"{found.model} for {found.target.name}, on {machine.card}; {versions}")
    if not found.target.bandwidth:
        console.print(f"The target {found.target.name} states no figures: no floors are known.")
    elif reason := unlike(machine, found.target):
        console.print(f"{reason}: no time is held against a floor.", soft_wrap=True)
    for phase in dict.fromkeys(timing.phase for timing in found.timings):
        console.print(_table(found, phase))
        for said in _notes([timing for timing in found.timings if timing.phase == phase]):
            console.print(said, markup=False, soft_wrap=True)


def _notes(timings: Sequence[Timing]) -> Iterator[str]:
    """What a phase's times do not say: why some are none, and whether a kernel is right."""
    why: dict[str, list[str]] = {}
    for timing in timings:
        for way, reason in timing.failed.items():
            if not _short(reason):
                why.setdefault(f"{way} fails: {reason}", []).append(_name(timing))
    yield from (f"{reason} ({', '.join(names)})" for reason, names in why.items())
    if any(timing.uncaptured for timing in timings):
        yield "*: no CUDA graph can be made of it, so what the host takes is in its time."
    by = {timing.differ[KERNEL]: timing for timing in timings if KERNEL in timing.differ}
    if by:
        most = max(by)
        yield f"Kernels differ from PyTorch by {most:.2g} of norms at most: {_name(by[most])}."


def _table(found: Benchmark, phase: str) -> Table:
    timings = [timing for timing in found.timings if timing.phase == phase]
    batch, context = found.demand.batch, found.demand.context
    rows = "1 row" if batch == 1 else f"{batch:,} rows"
    call = f"1 token at {context:,}" if phase == "decode" else f"{context:,} tokens"
    table = Table(title=f"{phase}: {rows}, {call}")
    for column in ("op", "computed by"):
        table.add_column(column, overflow="fold")
    for column in ("times", *COLUMNS.values(), "floor, us", "bound", "floor / time"):
        table.add_column(column, justify="right", no_wrap=True)
    for before, timing in zip([None, *timings], timings, strict=False):
        least, reached = timing.floor, timing.reached
        below = before is not None and before.of.lines == timing.of.lines  # its results
        table.add_row(
            "  backward" if below else _name(timing),
            timing.of.computed_by,
            str(timing.times),
            *(_cell(timing, way) for way in COLUMNS),
            _us(least.seconds if least else None),
            least.bound if least else "-",
            "-" if reached is None else f"{100 * reached:.0f} %",
        )
    table.add_section()
    sums = (
        _sum(timings, [timing.taken for timing in timings]),
        *(_sum(timings, [t.seconds.get(way) for t in timings]) for way in (PYTORCH, COMPILED)),
        _sum(timings, [t.floor.seconds if t.floor else None for t in timings]),
    )
    table.add_row("all of a call", "", "", *map(_us, sums))
    return table


def _sum(timings: Sequence[Timing], each: Sequence[float | None]) -> float | None:
    """Seconds of all, each as often as it runs; None where one is not known."""
    known = [t.times * seconds for t, seconds in zip(timings, each, strict=True) if seconds]
    return sum(known) if len(known) == len(timings) else None


def _name(timing: Timing) -> str:
    first, *others = (f"%{line.node}" for line in timing.of.lines)
    alike = f", and {len(others)} alike" if others else ""
    return f"{first} = {timing.op}{alike}" + ", backward" * bool(timing.of.gradients)


def _cell(timing: Timing, way: str) -> str:
    if way in timing.failed:
        return timing.failed[way] if _short(timing.failed[way]) else "fails"
    return _us(timing.seconds.get(way)) + "*" * (way in timing.uncaptured)


def _short(reason: str) -> bool:
    """Whether a reason has room in a table."""
    return len(reason) < len("no GPU or so")


def _us(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:,.2f}"


def check_format(path: Path) -> None:
    """Raise `ArchsmithError` for a picture of another format, `EnvironmentMissing` without
    matplotlib."""
    if path.suffix not in FORMATS:
        raise ArchsmithError(f"-o: a picture is {' or '.join(FORMATS)}, by its name; not {path}")
    _figure()


def draw(found: Benchmark, path: Path) -> None:
    """Draw how near to the target's roofline (doi:10.1145/1498765.1498785) a package is.

    On the left, ops with products by their FLOPs a byte; on the right, for every op its floor as a
    part of the time taken. Raises as `check_format`, and `OutputError` where it is not written.
    """
    check_format(path)
    tall = max(6.0, 0.15 * len(found.timings))  # inches: each bar has its name beside it
    figure = _figure()(figsize=(13, tall), layout="constrained")
    roofline, parts = figure.subplots(1, 2)
    figure.suptitle(f"{found.model} for {found.target.name}, on {found.machine.card}")
    _roofline(found, roofline)
    _parts(found, parts)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}") from None


def _roofline(found: Benchmark, axes: Any) -> None:
    target = found.target
    home = unlike(found.machine, target) is None
    axes.set(xscale="log", yscale="log", xlabel="FLOPs / byte", ylabel="FLOP/s", title="roofline")
    reached = [
        (timing, work.flops / work.bytes, work.flops / timing.taken)
        for timing in found.timings
        if (work := timing.of.work).flops and timing.taken
    ]
    for dtype in dict.fromkeys(timing.of.dtype for timing, _, _ in reached):
        peak = target.peak.get(dtype)
        if target.bandwidth and peak and home:
            ridge = peak / target.bandwidth
            places = [ridge, *(place for _, place, _ in reached)]
            line = (min(places) / 2, ridge, max(places) * 2)
            axes.plot(
                line, [min(peak, x * target.bandwidth) for x in line], label=f"at most, {dtype}"
            )
    for phase, marker in (("prefill", "o"), ("decode", "s"), ("train", "^")):
        here = [(place, rate) for timing, place, rate in reached if timing.phase == phase]
        if here:
            axes.plot(*zip(*here, strict=True), marker, label=phase)
    if reached:
        axes.legend()


def _parts(found: Benchmark, axes: Any) -> None:
    timings = found.timings[::-1]  # the first on top
    axes.barh(range(len(timings)), [100 * (timing.reached or 0.0) for timing in timings])
    names = [f"{_name(timing)} ({timing.phase})" for timing in timings]
    axes.set_yticks(range(len(timings)), names, fontsize=7)
    axes.set(xlabel="% of the time taken", title="floor", xlim=(0, 100))


def _figure() -> Any:
    """The class of matplotlib's figures."""
    try:
        return importlib.import_module("matplotlib.figure").Figure
    except ImportError:
        raise EnvironmentMissing(
            "drawing needs matplotlib\n  = help: pip install 'archsmith[plot]', or leave -o out"
        ) from None
