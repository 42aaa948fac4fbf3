"""How fast a package decodes, for people: as a table."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table

from .emit.measure import unlike
from .emit.measure_decoding import WAYS
from .throughput import Rate, Throughput

WIDTH = 160  # at most, where stdout is no terminal


def show(found: Throughput, *, markdown: bool = False) -> None:
    """Print to stdout: on what was timed, a table, and why ways are missing in it."""
    width = None if sys.stdout.isatty() else WIDTH
    console = Console(file=sys.stdout, highlight=False, width=width, soft_wrap=markdown)
    machine = found.machine
    versions = f"torch {machine.torch}" + f", triton {machine.triton}" * bool(machine.triton)
    console.print(f"{found.model} for {found.target.name}, on {machine.card}; {versions}")
    if not found.target.bandwidth:
        console.print(f"The target {found.target.name} states no figures: no floors are known.")
    elif reason := unlike(machine, found.target):
        console.print(f"{reason}: these rates are no measure of it.", soft_wrap=True)
    console.print(_table(found, markdown))
    for said in _notes(found):
        console.print(f"- {said}", markup=False, soft_wrap=True)


def _table(found: Throughput, markdown: bool) -> Table:
    title = f"decode: tokens/s, 1 token a row at {found.context:,}"
    table = Table(
        title=None if markdown else title, box=box.MARKDOWN if markdown else box.HEAVY_HEAD
    )
    ways = [way for way in _ways(found) if any(way in rate.seconds for rate in found.rates)]
    columns = ("least, MB", "floor, ms", "at most, tokens/s", "of the bandwidth")
    for column in ("rows", *ways, *columns):
        table.add_column(column, justify="right", no_wrap=True)
    for rate in found.rates:
        least = rate.floor.seconds if rate.floor else None
        table.add_row(
            f"{rate.demand.batch:,}",
            *(_cell(rate, way) for way in ways),
            f"{rate.moved / 1e6:,.1f}",
            "-" if least is None else f"{least * 1e3:,.3f}",
            _number(rate.demand.batch / least if least else None),
            "-" if rate.reached is None else f"{100 * rate.reached:.0f} %",
        )
    return table


def _cell(rate: Rate, way: str) -> str:
    """Tokens a second, and how much longer a step takes than the package's own."""
    seconds = rate.seconds.get(way)
    text = _number(rate.tokens(way))
    if seconds is None or not rate.taken or way == rate.own:
        return text
    return f"{text} ({seconds / rate.taken:.2f})"


def _ways(found: Throughput) -> dict[str, None]:
    peers = [way for rate in found.rates for way in (*rate.seconds, *rate.failed)]
    return dict.fromkeys((*WAYS, *peers))


def _notes(found: Throughput) -> Iterator[str]:
    """Why ways have no time, each reason once."""
    reasons: dict[tuple[str, str], list[Rate]] = {}
    for rate in found.rates:
        for way, why in rate.failed.items():
            reasons.setdefault((way, why), []).append(rate)
    for (way, why), rates in reasons.items():
        rows = ", ".join(f"{rate.demand.batch:,}" for rate in rates)
        yield f"{way}: {why}" + ("" if len(rates) == len(found.rates) else f" (at {rows} rows)")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value >= 100 else f"{value:,.2f}"
