"""The choice of experts in Triton, from a token's row to the experts that it uses.

Where there are too few rows for all processors, programs share out the product's sums, and a second
launch adds them up. A counter would let the last of them do so: one that each call clears is a
launch too, and one that outlives calls is shared by streams and graphs that may run at a time.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.moe import SCORES, Router
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import CANDIDATES, Config, Kernel, Use
from ...compiler.schedule.tiles import power_of_2, unable
from .route import rules

TILE = 1024  # numbers of the tile of a program that only chooses
MOST = 1024  # columns of a row that a program chooses from
LEAST = 16  # rows and columns of a matrix instruction's tile
HELD = 32  # numbers of a tile that a thread may have, while it chooses
SPLITS = (1, 4, 16)  # few, since each is compiled anew


class TritonRouter(Kernel):
    name = "triton.router"
    implements = "router"
    functions = ("fused_router",)
    triton = True
    reference = "torch.router"
    ladder = (1, 16, 128, 1024)

    def refuses(self, op: Router, operands: tuple[TensorType, ...], target: Target) -> str | None:
        if reason := unable(operands, target):
            return reason
        x, weight, *_ = operands
        if x.dtype != weight.dtype and (x.dtype, weight.dtype) != ("bfloat16", "float32"):
            return f"it has no product of {x.dtype} and a router's weight in {weight.dtype}"
        if (columns := Shape.of(op, operands).columns) > MOST:
            return f"a row of {columns} experts and gaps does not fit one program: at most {MOST}"
        if any(next(self.configs(op, operands, n, target), None) is None for n in self.ladder):
            return f"no tile fits the shared memory of {target.shared_memory} bytes"
        return None

    def cost(
        self, op: Router, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """Sums that are shared out are written and read once more, by two launches; a weight in
        float32 is three factors in bfloat16."""
        shape = Shape.of(op, operands)
        most = next((n for n in self.ladder if sizes.rows <= n), 4 * self.ladder[-1])
        tile = next(self.configs(op, operands, most, target)).constants
        own = op.cost(sizes, *operands)
        parts = Cost(flops=(shape.factors - 1) * own.flops, launches=1)
        if not _whole(tile):
            parts += Cost(bytes=_between(sizes.rows, shape, tile["SPLITS"]), launches=1)
        return own + parts

    def configs(
        self, op: Router, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        shape = Shape.of(op, operands)
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

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        tiles = {
            Shape.of(use.op, use.operands).key: {most: _launches(c) for most, c in use.tiles}
            for use in uses
        }
        return {
            "TILES": {key: tiles[key] for key in sorted(tiles)},
            "SCORES": tuple(sorted({use.op.score for use in uses})),
        }

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        shapes = [Shape.of(use.op, use.operands) for use in uses]
        depths = [config.constants["BLOCK_K"] for use in uses for _, config in use.tiles]
        grouped = [use.op for use, shape in zip(uses, shapes, strict=True) if shape.groups > 1]
        return {
            **{score: any(use.op.score == score for use in uses) for score in SCORES},
            "grouped": bool(grouped),
            "two": any(op.group_score == "top2_sum" for op in grouped),
            "wide": any(shape.factors > 1 for shape in shapes),
            "masked": any(shape.width % depth for shape, depth in product(shapes, depths)),
        }

    def call(
        self,
        op: Router,
        x: Code,
        weight: Code,
        bias: Code | None = None,
        *,
        phases: tuple[str, ...],
    ) -> Code:
        return call("fused_router", x, weight, bias, **rules(op))


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
        x, weight, *_ = operands
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
    return moved + _between(rows, shape, splits) + target.launch * target.bandwidth


def _between(rows: int, shape: Shape, splits: int) -> int:
    """Bytes of sums in float32, which are written and read."""
    return 2 * splits * rows * shape.columns * BYTES["float32"]


def _divisor(most: int, size: int) -> int:
    """A depth that divides a row, so that no read needs a mask; else the most."""
    whole = math.gcd(most, size)
    return whole if whole >= min(most, 32) else min(most, max(power_of_2(size), LEAST))


def _launches(config: Config) -> tuple[Mapping[str, int] | None, Mapping[str, int]]:
    """What programs are compiled with that share out the sums, if any do, and those that choose."""
    tile = config.constants
    if _whole(tile):
        return None, config.options()
    block = tile["BLOCK"]
    rows = max(TILE // block, 4)  # one for each warp, or as many short ones as make a tile
    alone = {**tile, "BLOCK_M": rows, "BLOCK_N": block, "BLOCK_K": 0}
    return config.options(), Config(alone, num_warps=4).options()


def _whole(tile: Mapping[str, int]) -> bool:
    """Whether a program sums up all of its rows' logits, so that it can choose."""
    return tile["SPLITS"] == 1 and tile["BLOCK_N"] == tile["BLOCK"]
