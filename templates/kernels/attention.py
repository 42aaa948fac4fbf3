"""What the attention kernels have in common: which attention they compute, and a row's parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ...compiler.ir.cost import Cost
from ...compiler.ir.op import Op
from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.attention import Attend
from ...compiler.schedule.code import Code
from ...compiler.schedule.tiles import power_of_2, unable

LEAST = 16  # a matrix instruction takes no fewer of any axis
BARRIERS = 2048  # bytes beside the tiles
WIDEST = 576  # elements of a key: more of them leave no room for a block of slots


@dataclass(frozen=True)
class Sizes:
    """The sizes of an attention that a kernel is compiled for."""

    k: int
    v: int
    group: int
    """Query heads that share a key."""
    bytes: int
    """Of an element."""
    in_key: bool = False
    """Whether a value is its key's first columns."""

    @classmethod
    def of(cls, operands: tuple[TensorType, ...], in_key: bool = False) -> Sizes:
        q, k, v, *_ = operands
        heads, width = q.row
        groups, value = v.row
        return cls(width.size, value.size, heads.size // groups.size, BYTES[k.dtype], in_key)

    @property
    def key(self) -> tuple[int, int, int]:
        """What a package's table is looked up by."""
        return self.k, self.v, self.group

    @property
    def value(self) -> int:
        """Columns of a tile of values."""
        return max(power_of_2(self.v), LEAST)

    @property
    def parts(self) -> tuple[int, int]:
        """Columns of the two tiles that hold a key, 192 as 128 and 64: a tile's axes are powers of
        two, and one of 256 would be a third larger than what it holds."""
        whole = max(power_of_2(self.k), LEAST)
        half = whole // 2
        rest = max(power_of_2(self.k - half), LEAST) if self.k > half else 0
        return (half, rest) if self.k < whole and half >= LEAST and rest < half else (whole, 0)

    @property
    def columns(self) -> dict[str, int]:
        """The parts as constants."""
        key, rest = self.parts
        return {"KEY": key, "REST": rest, "VALUE": self.value}

    def held(self, block_m: int, block_n: int, stages: int, target: Target) -> int:
        """Shared memory that a program takes at most: queries, blocks in flight, weights."""
        asynchronous = block_m >= 64 and {"wgmma", "tcgen05"} & {*target.features}
        blocks = stages if asynchronous else stages - 1  # else one passes through registers
        queries = 0 if "mfma" in target.features else block_m * sum(self.parts)
        read_once = self.in_key and self.parts[0] == self.value
        slots = blocks * block_n * (sum(self.parts) + (0 if read_once else self.value))
        return (queries + slots + block_m * block_n) * self.bytes + BARRIERS


def pageless(op: Op, block: int) -> str | None:
    """Why a block of so many slots lies in no page of what `op` reads, or None."""
    page = op.pages()
    if page is None or page.size % block == 0:
        return None
    return f"a block of {block} slots lies in no page of {page.size}"


def combining(rows: int, target: Target) -> Cost:
    """What it takes, where rows are few, to combine what splits found: a launch of its own, or the
    last program, which reads all of it alone, in about the time of two."""
    if rows > target.processors:
        return Cost()
    if not target.waits:
        return Cost(launches=1)
    return Cost(bytes=2 * target.launch * target.bandwidth)


def refusal(
    op: Attend, operands: tuple[TensorType, ...], target: Target, plain: bool = True
) -> str | None:
    """Why no attention kernel computes `op` here, or None; of one that is `plain`, no options."""
    if reason := unable(operands, target):
        return reason
    if plain and op.window is not None:
        return "it has no text for a window"
    if plain and op.softcap is not None:
        return "it has no text for a cap of the scores"
    if plain and len(operands) > 4:
        return "it has no text for sinks"
    if op.scale <= 0:
        return f"a scale of {op.scale} turns the largest score into the least"
    widest = max(t.row[-1].size for t in operands[:3])
    if widest > WIDEST:
        return f"a row of {widest} leaves no room for a block of slots: at most {WIDEST}"
    return None


def given(
    op: Attend,
    sinks: Code | None,
    held: Code | None,
    table: Code | None = None,
    slots: Code | None = None,
    arrived: Code | None = None,
) -> dict[str, Any]:
    """What a call says beside tensors, positions and a scale, by keyword, where it is there."""
    options = {
        "window": None if op.window is None else int(op.window),
        "softcap": op.softcap,
        "sinks": sinks,
        "held": held,
        "table": table,
        "slots": slots,
        "arrived": arrived,
    }
    return {key: value for key, value in options.items() if value is not None}
