"""With what tiles a choice of experts is made: by few programs of many rows, or by many of few."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.moe import NormRouter, Router
from ...compiler.schedule.kernel import CANDIDATES, Config
from ...compiler.schedule.tiles import power_of_2

LEAST = 16  # rows and columns of a matrix instruction's tile
FEW = 16  # rows up to which programs share out the weight, and the last of them chooses
HELD = 32  # numbers of a tile that a thread may have, while it chooses
SPLITS = (1, 4, 16)  # few, since each is compiled anew


@dataclass(frozen=True)
class Shape:
    """What tiles are chosen by: `experts` in `groups`, of rows that are `width` wide."""

    experts: int
    width: int
    groups: int
    """One, where experts of any group may be chosen."""
    x_bytes: int
    weight_bytes: int

    @classmethod
    def of(cls, op: Router, operands: tuple[TensorType, ...]) -> Shape:
        x, weight = factors(op, operands)
        experts, width = weight.row
        groups = op.groups.size if op.top_groups.size < op.groups.size else 1
        return cls(experts.size, width.size, groups, BYTES[x.dtype], BYTES[weight.dtype])

    @property
    def key(self) -> tuple[int, int, int]:
        return self.experts, self.width, self.groups

    @property
    def slots(self) -> int:
        """Columns of a group, whose last are gaps: groups are then an axis of a tile."""
        return max(power_of_2(self.experts // self.groups), LEAST // power_of_2(self.groups))

    @property
    def columns(self) -> int:
        return power_of_2(self.groups) * self.slots

    @property
    def factors(self) -> int:
        """How many matrices of x's dtype a weight is the sum of."""
        return 3 if self.weight_bytes > self.x_bytes else 1

    def between(self, rows: int, splits: int) -> int:
        """Bytes of sums in float32, which are written and read."""
        return 2 * splits * rows * self.columns * BYTES["float32"]


def factors(op: Router, operands: tuple[TensorType, ...]) -> tuple[TensorType, TensorType]:
    """What is multiplied: rows, and the router's weight."""
    x, weight = operands[0], operands[3 if isinstance(op, NormRouter) else 1]
    return x, weight


def norms(rows: int, shape: Shape, target: Target) -> bool:
    """Whether each program norms all rows for itself sooner than a launch does it before.

    It reads them at its processor's share of the bandwidth, in less than two launches' time: that
    of the norm, and that of a second one that chooses.
    """
    share = target.launch * target.bandwidth / target.processors
    return rows == 1 or (rows <= FEW and rows * 2 * shape.width * shape.x_bytes <= 2 * share)


def of_few(rows: int, shape: Shape, target: Target) -> Iterator[Config]:
    """Tiles of programs that share out the weight, of which the last to end chooses.

    Each reads one tile of the weight while it multiplies another: as many numbers as threads have
    room for are on their way.
    """
    m = 1 if rows == 1 else LEAST
    held = 1024 * shape.weight_bytes if m == 1 else 2048 if shape.x_bytes == 2 else 512
    found = []
    for block_n, splits in product((16, 32, 64), (1, 2, 4, 8, 16)):
        if block_n > shape.columns:
            continue
        block_k = min(held // block_n, max(power_of_2(-(-shape.width // splits)), LEAST))
        share = -(-shape.width // (splits * block_k)) * block_k
        splits = -(-shape.width // share)
        waves = -(-shape.columns // block_n * splits // target.processors)
        read = waves * block_n * share * shape.weight_bytes + shape.between(rows, splits) / 2
        found.append((read, splits, block_n, block_k))
    best = sorted(set(found))[: CANDIDATES // 2]
    for other, (_, splits, block_n, block_k) in product((False, True), best):
        own = min(max(block_n * block_k * shape.weight_bytes // 2048, 1), 8) if m == 1 else 8
        constants = {
            "BLOCK": shape.columns,
            "SLOTS": shape.slots,
            "M": m,
            "STEP": min(power_of_2(shape.width), 8192) if m == 1 else 128,
            "CHOSEN": min(m, max(128 * HELD // shape.columns, 1)),
            "BLOCK_N": block_n,
            "BLOCK_K": block_k,
            "SPLITS": splits,
        }
        yield Config(constants, num_warps=(8 if own == 4 else 4) if other else own, num_stages=1)


def of_many(rows: int, shape: Shape, target: Target) -> Iterator[Config]:
    """Tiles of programs that choose for all of their rows, or share out their sums."""
    exact = shape.x_bytes > 2  # no matrix instruction: operands fill registers
    tiles = (16, 32) if exact else (16, 32, 64, 128)
    widest = min(32, shape.columns) if exact else shape.columns
    widths = [n for n in (16, 32, 64, 128, 256, 512) if n <= widest]
    found = []
    for block_m, block_n, splits in product(tiles, widths, SPLITS):
        whole = splits == 1 and block_n == shape.columns
        warps = 8 if block_m * block_n >= 4096 else 4
        held = block_m * block_n // (32 * warps)
        most = (HELD if whole else 2 * HELD) // (1 if _roomy(shape, target) else 2)
        if held > most or (splits > 1 and splits * LEAST > shape.width):
            continue
        moved = _moved(rows, shape, block_m, block_n, splits, target)
        found.append((moved, splits, block_n, block_m, warps))
    for _, splits, block_n, block_m, warps in sorted(found)[:CANDIDATES]:
        for block_k, stages in _depths(shape, block_m, target):
            block_k = _divisor(block_k, shape.width)
            step = (block_m * shape.x_bytes + block_n * shape.weight_bytes) * block_k
            if (stages + 1) * step <= target.shared_memory:
                constants = {
                    "BLOCK": shape.columns,
                    "SLOTS": shape.slots,
                    "BLOCK_M": block_m,
                    "BLOCK_N": block_n,
                    "BLOCK_K": block_k,
                    "SPLITS": splits,
                }
                yield Config(constants, warps, stages)
                break


def _reads_shared(target: Target) -> bool:
    """Whether matrix instructions of 64 rows read their operands from shared memory."""
    return not {"wgmma", "tcgen05"}.isdisjoint(target.features)


def _roomy(shape: Shape, target: Target) -> bool:
    """Whether sums leave registers free: factors need none, or sums have some of their own."""
    return shape.factors == 1 or _reads_shared(target) or "mfma" in target.features


def _depths(shape: Shape, block_m: int, target: Target) -> tuple[tuple[int, int], ...]:
    """How much of a row a step may take, and how many steps are in flight, the best first."""
    if shape.x_bytes > 2:
        return (32, 3), (16, 2)
    if shape.factors > 1 and not (block_m >= 64 and _reads_shared(target)):
        return (32, 4), (32, 3), (32, 2)  # all factors of a step are in registers
    return (64, 3), (64, 2), (32, 2)


def _moved(
    rows: int, shape: Shape, block_m: int, block_n: int, splits: int, target: Target
) -> float:
    """Bytes that the memory could move while a tile's programs read, and launch once more."""
    programs = -(-rows // block_m) * (shape.columns // block_n) * splits
    each = min(block_m, rows) * shape.x_bytes + min(block_n, shape.experts) * shape.weight_bytes
    # A processor reads its share of the bandwidth, and about twice that where others are idle.
    waves = -(-programs // target.processors)
    busy = max(programs, target.processors / 2) if waves == 1 else waves * target.processors
    moved = busy * each * shape.width / splits
    if splits == 1 and block_n == shape.columns:
        return moved
    return moved + shape.between(rows, splits) + target.launch * target.bandwidth


def _divisor(most: int, size: int) -> int:
    """A depth that divides a row, so that no read needs a mask; else the most."""
    whole = math.gcd(most, size)
    return whole if whole >= min(most, 32) else min(most, max(power_of_2(size), LEAST))


def whole(tile: Mapping[str, int]) -> bool:
    """Whether a program sums up all of its rows' logits, so that it can choose."""
    return tile["SPLITS"] == 1 and tile["BLOCK_N"] == tile["BLOCK"]
