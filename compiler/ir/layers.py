"""A layered layout: rows by longest path, few crossings, and wires that bend only between rows.

The three steps are those of Sugiyama, Tagawa and Toda 1981: layering, ordering, placing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

SWEEPS = 12
GAP = 24.0  # between neighbours of a row
BETWEEN_ROWS = 44.0
BEND = 6.0  # the width that a wire takes where it passes a row

Key: TypeAlias = str | tuple[int, int]
"""A box by its name, or a place where wire `i` passes row `r`."""


@dataclass(frozen=True)
class Size:
    width: float
    height: float


@dataclass(frozen=True)
class Wire:
    """A line from one box down to others; `port` is where it leaves, from the box's middle."""

    source: str
    targets: tuple[str, ...]
    port: float = 0.0


@dataclass(frozen=True)
class Layout:
    """Where things are: each box by the middle of its top, each way of a wire as points."""

    boxes: Mapping[str, tuple[float, float]]
    routes: Mapping[tuple[int, str], tuple[tuple[float, float], ...]]
    """Wire number and target -> from the bottom of the source to the top of the target."""
    width: float
    height: float


def layout(sizes: Mapping[str, Size], wires: Sequence[Wire]) -> Layout:
    """Place boxes, given in topological order."""
    ranks = _ranks(sizes, wires)
    links = list(_links(ranks, wires))
    rows = _ordered(_rows(ranks, links), links)
    widths: dict[Key, float] = {name: size.width for name, size in sizes.items()}
    middle = _placed(rows, links, widths)
    tops, height = [], 0.0
    for row in rows:
        tops.append(height)
        height += max(sizes[k].height for k in row if isinstance(k, str)) + BETWEEN_ROWS
    left = min(middle[k] - widths.get(k, BEND) / 2 for k in middle)
    right = max(middle[k] + widths.get(k, BEND) / 2 for k in middle)
    at = {key: x - left for key, x in middle.items()}
    boxes = {name: (at[name], tops[ranks[name]]) for name in sizes}
    routes = {}
    for i, wire in enumerate(wires):
        x, y = boxes[wire.source]
        start = (x + wire.port, y + sizes[wire.source].height)
        for target in wire.targets:
            points = [start, (start[0], tops[ranks[wire.source] + 1] - BETWEEN_ROWS)]
            for rank in range(ranks[wire.source] + 1, ranks[target]):
                below = tops[rank + 1] - BETWEEN_ROWS
                points += [(at[i, rank], tops[rank]), (at[i, rank], below)]
            routes[i, target] = (*points, boxes[target])
    return Layout(boxes, routes, right - left, height - BETWEEN_ROWS)


def _ranks(names: Mapping[str, Size], wires: Sequence[Wire]) -> dict[str, int]:
    """The row of each box: one below the lowest that it reads, or just above its first reader."""
    ranks = dict.fromkeys(names, 0)
    outgoing: dict[str, list[Wire]] = {}
    for wire in wires:
        outgoing.setdefault(wire.source, []).append(wire)
    for name in names:
        for wire in outgoing.get(name, []):
            for target in wire.targets:
                ranks[target] = max(ranks[target], ranks[name] + 1)
    for name in names:
        read = [ranks[target] for wire in outgoing.get(name, []) for target in wire.targets]
        if ranks[name] == 0 and read:
            ranks[name] = min(read) - 1
    return ranks


def _links(ranks: Mapping[str, int], wires: Sequence[Wire]) -> Iterator[tuple[Key, Key]]:
    """Neighbours in adjacent rows, boxes and passing wires alike; a wire's ways share theirs."""
    for i, wire in enumerate(wires):
        seen = set()
        for target in wire.targets:
            start, stop = ranks[wire.source], ranks[target]
            way: list[Key] = [wire.source, *((i, r) for r in range(start + 1, stop)), target]
            for link in pairwise(way):
                if link not in seen:
                    seen.add(link)
                    yield link


def _rows(ranks: Mapping[str, int], links: Sequence[tuple[Key, Key]]) -> list[list[Key]]:
    rows: list[list[Key]] = [[] for _ in range(max(ranks.values()) + 1)]
    for name, rank in ranks.items():
        rows[rank].append(name)
    for key in dict.fromkeys(key for link in links for key in link if isinstance(key, tuple)):
        rows[key[1]].append(key)
    return rows


def _ordered(rows: list[list[Key]], links: Sequence[tuple[Key, Key]]) -> list[list[Key]]:
    """Rows sorted by the mean place of what each key is linked to, the best of a few sweeps."""
    above, below = _neighbours(links)
    best, fewest = rows, _crossings(rows, links)
    rows = [list(row) for row in rows]
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for r in range(1, len(rows)) if down else range(len(rows) - 2, -1, -1):
            place = {key: i for i, key in enumerate(rows[r - 1 if down else r + 1])}
            near = above if down else below
            old = {key: i for i, key in enumerate(rows[r])}
            wanted = {
                key: _mean([place[n] for n in near.get(key, [])], old[key]) for key in rows[r]
            }
            rows[r] = sorted(rows[r], key=lambda k: (wanted[k], old[k]))
        count = _crossings(rows, links)
        if count < fewest:
            best, fewest = [list(row) for row in rows], count
    return best


def _crossings(rows: list[list[Key]], links: Sequence[tuple[Key, Key]]) -> int:
    place = {key: i for row in rows for i, key in enumerate(row)}
    rank = {key: r for r, row in enumerate(rows) for key in row}
    spans: list[list[tuple[int, int]]] = [[] for _ in rows]
    for upper, lower in links:
        spans[rank[upper]].append((place[upper], place[lower]))
    return sum(
        (a - c) * (b - d) < 0 for row in spans for i, (a, b) in enumerate(row) for c, d in row[:i]
    )


def _placed(
    rows: list[list[Key]], links: Sequence[tuple[Key, Key]], widths: Mapping[Key, float]
) -> dict[Key, float]:
    """The middle of every key: as near to its neighbours as its place in the row allows."""
    above, below = _neighbours(links)
    middle: dict[Key, float] = {}
    for row in rows:
        middle |= _spaced(row, dict.fromkeys(row, 0.0), widths)
    for sweep in range(SWEEPS):
        down = sweep % 2 == 0
        for row in rows if down else rows[::-1]:
            near = above if down else below
            wanted = {
                key: _mean([middle[n] for n in near.get(key, [])], middle[key]) for key in row
            }
            middle |= _spaced(row, wanted, widths)
    return middle


def _spaced(
    row: Sequence[Key], wanted: Mapping[Key, float], widths: Mapping[Key, float]
) -> dict[Key, float]:
    """The places nearest to those wanted, in least squares, that keep order and distance.

    Neighbours that would overlap are pooled to one group, which stands where its mean would.
    """
    offsets: list[float] = []
    edge = 0.0
    for key in row:
        half = widths.get(key, BEND) / 2
        offsets.append(edge + half)
        edge += 2 * half + GAP
    groups: list[tuple[float, int]] = []  # the mean shift of a run of keys, and their number
    for key, offset in zip(row, offsets, strict=True):
        shift, count = wanted[key] - offset, 1
        while groups and groups[-1][0] > shift:
            other, more = groups.pop()
            shift, count = (shift * count + other * more) / (count + more), count + more
        groups.append((shift, count))
    shifts = [shift for shift, count in groups for _ in range(count)]
    return {key: o + s for key, o, s in zip(row, offsets, shifts, strict=True)}


def _neighbours(
    links: Sequence[tuple[Key, Key]],
) -> tuple[dict[Key, list[Key]], dict[Key, list[Key]]]:
    above: dict[Key, list[Key]] = {}
    below: dict[Key, list[Key]] = {}
    for upper, lower in links:
        above.setdefault(lower, []).append(upper)
        below.setdefault(upper, []).append(lower)
    return above, below


def _mean(values: Sequence[float], otherwise: float) -> float:
    return sum(values) / len(values) if values else otherwise
