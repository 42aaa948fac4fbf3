"""Tables of measured tiles as tests need them: of any of a plan's candidates."""

from __future__ import annotations

from archsmith.compiler.machine.tuned import Address, Options, Table, Tile


def table(
    target: str, *entries: tuple[Address, int | None, Options], card: str = "a card"
) -> Table:
    found = Table(
        target=target,
        card=card,
        driver="580.65.06",
        torch="2.13.0",
        triton="3.9.0",
        date="2026-11-28",
        kernels=[],
    )
    for where, rows, options in entries:
        options = dict(options)
        tile = Tile(rows=rows, options=options, calls=[[1, 1, 9]], us=[1.5], default_us=[2])
        found = found.adding(where, tile)
    return found
