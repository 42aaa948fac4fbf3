"""Forecasts as tables: one in full, or several side by side."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import partial

from rich.console import Console
from rich.table import Table

from .schedule.forecast import Forecast, Phase

WIDTH = 160  # at most, where stdout is no terminal

Entry = tuple[str, Callable[[Forecast], float | None], Callable[[float], str]]


def show(forecasts: Sequence[Forecast]) -> None:
    """Print to stdout: a single forecast op by op, several with their ratios to the first."""
    width = None if sys.stdout.isatty() else WIDTH
    console = Console(file=sys.stdout, highlight=False, width=width)
    console.print(_summary(forecasts))
    for silence in dict.fromkeys(filter(None, map(_silence, forecasts))):
        console.print(silence)
    if len(forecasts) == 1:
        for name, phase in forecasts[0].phases.items():
            console.print(_kernels(f"{name}: {_call(forecasts[0], name)}", phase))


def _silence(forecast: Forecast) -> str:
    """Why nothing is said of time, where that is so."""
    if not forecast.target.bandwidth:
        return f"The target {forecast.target.name} states no figures: nothing is said of time."
    if any(phase.seconds is None for phase in forecast.phases.values()):
        return f"The target {forecast.target.name} states no peak for all of {forecast.model}."
    return ""


def _summary(forecasts: Sequence[Forecast]) -> Table:
    first = forecasts[0]
    table = Table()
    table.add_column("")
    for forecast in forecasts:
        table.add_column(f"{forecast.model}\non {forecast.target.name}", justify="right")
        if forecast is not first:
            table.add_column("ratio", justify="right")
    for label, measure, unit in _entries():
        cells: list[str] = []
        for forecast in forecasts:
            value = measure(forecast)
            cells.append("-" if value is None else unit(value))
            if forecast is not first:
                cells.append(_ratio(value, measure(first)))
        table.add_row(label, *cells)
    words: list[tuple[str, Callable[[Forecast], str]]] = [
        *((f"{name}: bound by", partial(_bounds, name)) for name in first.phases),
        ("weights and cache fit", _fits),
    ]
    if any(forecast.tiles[0] or forecast.stale for forecast in forecasts):
        words.append(("tiles that were measured", _tiles))
    for label, say in words:
        said = [say(first), *(cell for f in forecasts[1:] for cell in (say(f), ""))]
        table.add_row(label, *said)
    return table


def _bounds(name: str, forecast: Forecast) -> str:
    """What kernels are held back by, and for how much of the time."""
    spent = forecast.phases[name].spent
    total = forecast.phases[name].seconds
    if not total:
        return "-"
    parts = {bound: round(100 * seconds / total) for bound, seconds in spent.items()}
    most = sorted((bound for bound in parts if parts[bound]), key=lambda bound: -parts[bound])
    return "\n".join(f"{bound} {parts[bound]} %" for bound in most)


def _fits(forecast: Forecast) -> str:
    if forecast.fits is None:
        return "-"
    return f"{'yes' if forecast.fits else 'no'}, of {_bytes(forecast.target.memory)}"


def _tiles(forecast: Forecast) -> str:
    measured, every = forecast.tiles
    return f"{measured:,} of {every:,}"


def _entries() -> list[Entry]:
    def phase(
        name: str, measure: Callable[[Phase], float | None]
    ) -> Callable[[Forecast], float | None]:
        return lambda forecast: measure(forecast.phases[name])

    entries: list[Entry] = [
        ("rows", lambda f: f.demand.batch, _whole),
        ("tokens of context in a row", lambda f: f.demand.context, _whole),
        ("parameters", lambda f: f.parameters, _count),
        ("active for a token", lambda f: f.active, _count),
        ("weights", lambda f: f.weight_bytes, _bytes),
        ("cache a token", lambda f: f.cache_bytes, _bytes),
        ("cache a token, at best", lambda f: f.cache_best_bytes, _bytes),
        ("cache held", lambda f: f.held_bytes, _bytes),
    ]
    for name in ("prefill", "decode"):
        entries += [
            (f"{name}: FLOPs a token", phase(name, lambda p: p.work.flops / p.tokens), _count),
            (f"{name}: launches", phase(name, lambda p: p.launches), _whole),
            (f"{name}: tokens/s, at most", phase(name, lambda p: p.tokens_per_second), _rate),
            (f"{name}: tokens/s, any kernels", phase(name, _any_kernels), _rate),
        ]
    return entries


def _any_kernels(phase: Phase) -> float | None:
    return phase.tokens / phase.ideal.seconds if phase.ideal else None


def _kernels(title: str, phase: Phase) -> Table:
    """Every op that takes anything: what one run of it and of its kernel takes."""
    table = Table(title=title)
    for column in ("block", "op", "kernel"):
        table.add_column(column, overflow="fold")
    for column in ("times", "FLOPs", "bytes", "us", "bound"):
        table.add_column(column, justify="right", no_wrap=True)
    block = ""
    for line in phase.lines:
        if not line.work.bytes:
            continue  # a view
        if block and line.block != block:
            table.add_section()
        floor = line.floor
        table.add_row(
            line.block if line.block != block else "",
            f"%{line.node}" if line.node.startswith(line.op) else f"%{line.node} = {line.op}",
            line.kernel,
            str(line.times),
            _count(line.work.flops) if line.work.flops else "",
            _bytes(line.work.bytes),
            f"{floor.seconds * 1e6:,.2f}" if floor else "-",
            floor.bound if floor else "-",
        )
        block = line.block
    table.add_section()
    work, seconds = phase.work, phase.seconds
    table.add_row(
        "all",
        "",
        "",
        "",
        _count(work.flops),
        _bytes(work.bytes),
        f"{seconds * 1e6:,.2f}" if seconds else "-",
        max(phase.spent, key=phase.spent.__getitem__) if seconds else "-",
    )
    return table


def _call(forecast: Forecast, phase: str) -> str:
    batch, context = forecast.demand.batch, forecast.demand.context
    rows = "1 row" if batch == 1 else f"{batch:,} rows"
    return f"{rows}, " + (
        f"{context:,} tokens" if phase == "prefill" else f"1 token at {context:,}"
    )


def _ratio(value: float | None, first: float | None) -> str:
    if value is None or not first or value == first:
        return ""
    return f"{100 * (value / first - 1):+.1f} %" if value < first else f"x {value / first:.2f}"


def _count(value: float) -> str:
    return _scaled(value, ("", "k", "M", "G", "T"))


def _bytes(value: float) -> str:
    return _scaled(value, ("B", "kB", "MB", "GB", "TB"))


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def _scaled(value: float, units: tuple[str, ...]) -> str:
    """A number with the unit of its size, in steps of a thousand."""
    step = 0
    while value >= 1000 and step < len(units) - 1:
        value, step = value / 1000, step + 1
    number = f"{value:,.2f}" if step else f"{value:,.0f}"
    return f"{number} {units[step]}".rstrip()
