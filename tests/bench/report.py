"""A comparison for people, as tables that are Markdown, and for programs, as JSON."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from datetime import date
from typing import Any

from archsmith.compiler.ir.cost import Cost, Sizes
from rich import box
from rich.console import Console
from rich.table import Table

from .compare import OURS, Comparison, Row


def show(found: Comparison, command: str, day: date) -> None:
    """Print to stdout: a table for each case, why ways are missing in it, and what was timed on."""
    console = Console(file=sys.stdout, highlight=False, width=200, soft_wrap=True)
    cases = dict.fromkeys((row.case.name, bool(row.case.gradients)) for row in found.rows)
    for name, gradients in cases:
        rows = [r for r in found.rows if (r.case.name, bool(r.case.gradients)) == (name, gradients)]
        how = "forward and backward" if gradients else "forward"
        console.print(f"\n{name}, {rows[0].case.dtype}, {how}\n", markup=False)
        console.print(_table(rows))
        for said in (*_notes(rows), *(_backward(rows, found.rows) if gradients else ())):
            console.print(f"- {said}", markup=False)
    machine = found.machine
    versions = {"torch": machine.torch, "triton": machine.triton} | found.peers
    named = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    card = machine.card + (f", driver {machine.driver}" if machine.driver else "")
    console.print(f"\n{day}; {card}; {named};\n\n    {command}", markup=False)
    if found.measured and found.target.bandwidth:
        rates = found.target.bandwidth / 1e9, found.target.peak["bfloat16"] / 1e12
        console.print(
            "\nFloors are by what a copy and a product of 8,192 reach in the same run:"
            " {:,.0f} GB/s and {:,.0f} TFLOP/s, in float8 twice that.".format(*rates)
        )


def as_json(found: Comparison, command: str, day: date) -> dict[str, Any]:
    return {
        "date": str(day),
        "command": command,
        "machine": vars(found.machine),
        "target": found.target.name,
        "ceilings": {
            "measured": found.measured,
            "bandwidth": found.target.bandwidth,
            "peak": dict(found.target.peak),
        },
        "peers": dict(found.peers),
        "rows": [row.json() for row in found.rows],
    }


def _table(rows: Sequence[Row]) -> Table:
    others = dict.fromkeys(name for row in rows for name in (*row.seconds, *row.failed))
    others.pop(OURS, None)
    table = Table(box=box.MARKDOWN)
    for column in ("call", "ours, us", "rate", "floor, us", "floor / ours"):
        table.add_column(column, justify="right", no_wrap=True)
    for name in others:
        table.add_column(f"{name}, us (ratio)", justify="right", no_wrap=True)
    for row in rows:
        taken, least = row.seconds.get(OURS), row.floor
        reached = f"{100 * least.seconds / taken:.0f} %" if taken and least else "-"
        cells = (_call(row.sizes), _us(taken), _rate(row), _us(least.seconds if least else None))
        table.add_row(*cells, reached, *(_other(row, name) for name in others))
    return table


def _call(sizes: Sizes) -> str:
    return f"{sizes.batch:,} x {sizes.tokens:,}"


def _other(row: Row, name: str) -> str:
    taken, ours = row.seconds.get(name), row.seconds.get(OURS)
    if taken is None:
        return "-"
    return _us(taken) + "*" * _waits(row, name) + (f" ({taken / ours:.2f})" if ours else "")


def _waits(row: Row, name: str) -> bool:
    """Whether a way has the launches in its time that ours has not."""
    return name in row.uncaptured and OURS in row.seconds and OURS not in row.uncaptured


def _rate(row: Row) -> str:
    taken = row.seconds.get(OURS)
    if not taken or not row.floor:
        return "-"
    return _per_second(row.case.work(row.sizes), taken, row.floor.bound)


def _per_second(work: Cost, taken: float, bound: str) -> str:
    """In what holds it back."""
    if bound == "compute":
        return f"{work.flops / taken / 1e12:,.0f} TFLOP/s"
    return f"{work.bytes / taken / 1e9:,.0f} GB/s"


def _backward(rows: Sequence[Row], every: Sequence[Row]) -> Iterator[str]:
    """What our gradients take alone: the difference from forward, where both were timed."""
    for row in rows:
        alike = [
            r for r in every if r.case.name == row.case.name and r.sizes.rows == row.sizes.rows
        ]
        forward = next((r for r in alike if not r.case.gradients and OURS in r.seconds), None)
        if forward is None or OURS not in row.seconds or row.floor is None:
            continue
        taken = row.seconds[OURS] - forward.seconds[OURS]
        work = row.case.work(row.sizes) + forward.case.work(forward.sizes) * -1
        if taken > 0:
            rate = _per_second(work, taken, row.floor.bound)
            where = f"({_call(row.sizes)})"
            yield f"ours, backward alone, by difference: {_us(taken)} us, {rate} {where}"


def _notes(rows: Sequence[Row]) -> list[str]:
    """Why ways have no time, each reason once."""
    found: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        for name, why in row.failed.items():
            found.setdefault((name, why), []).append(_call(row.sizes))
    said = [
        f"{name}: {why}" + ("" if len(calls) == len(rows) else f" (at {', '.join(calls)})")
        for (name, why), calls in found.items()
    ]
    if any(_waits(row, name) for row in rows for name in row.seconds):
        said.append("*: no CUDA graph could be captured of it, so its launches are in its time")
    return said


def _us(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e6:,.1f}"
