"""Attention of few queries a row in Triton: its context is split among programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.cost import Cost
from ...compiler.ir.cost import Sizes as Call
from ...compiler.ir.model import DECODED
from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.attention import Attend
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Config, Kernel, Use
from ...compiler.schedule.tiles import power_of_2
from .attention import LEAST, Sizes, combining, given, pageless, refusal

BATCH = 128  # rows of a call that is large
WIDE = 128 * 128  # results of a tile that leave a thread of four warps few other registers


class TritonDecodeAttention(Kernel):
    name = "triton.decode_attention"
    implements = "attend"
    functions = ("decode_attention",)
    parts = ("split_attention", "splits")
    triton = True
    reference = "torch.attend"
    phases = ("decode",)
    ladder = (16, 32)  # of queries that share keys: the heads of a group, of all tokens of a row

    def refuses(self, op: Attend, operands: tuple[TensorType, ...], target: Target) -> str | None:
        if reason := refusal(op, operands, target, plain=False):
            return reason
        if reason := pageless(op, LEAST):
            return reason
        for _, rows in self.rungs():
            if next(self.configs(op, operands, rows, target), None) is None:
                return f"no tile fits the shared memory of {target.shared_memory} bytes"
        return None

    def cost(
        self, op: Attend, operands: tuple[TensorType, ...], sizes: Call, target: Target
    ) -> Cost:
        rows = sizes.batch * operands[1].row[0].size
        return op.cost(sizes, *operands) + Cost(launches=1) + combining(rows, target)

    def configs(
        self, op: Attend, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        sizes = _sizes(op, operands, target)
        block_m = _block_m(sizes, rows, target)
        for programs, block_n, stages in _steps(sizes, block_m):
            held = sizes.held(block_m, block_n, stages, target)
            if pageless(op, block_n):
                continue
            if programs * held <= target.shared_memory and block_n <= _most_slots(sizes, target):
                constants = {**sizes.columns, "BLOCK_M": block_m, "BLOCK_N": block_n}
                best = 8 if sizes.value > 256 or block_m * sizes.value > WIDE else 4
                for warps in (best, 8):  # never fewer than the best: registers would spill
                    yield Config(constants, warps, stages)

    def key(self, op: Attend, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        return (*Sizes.of(operands).key, int(op.value_in_key))

    def example(self, op: Attend, operands: tuple[TensorType, ...], rows: int, usual: Call) -> Call:
        """As many tokens as give so many queries; the smallest tiles are for few rows too."""
        group = Sizes.of(operands).group
        tokens = min(max(rows // group, 1), DECODED.size)
        many = rows > self.ladder[0] and (rows >= group or rows > self.ladder[-1])
        return Call(BATCH if many else 1, tokens, usual.context)

    def counters(self, op: Attend, operands: tuple[TensorType, ...], target: Target) -> int:
        """One for each tile of queries that share keys."""
        queries = DECODED.size * Sizes.of(operands).group
        return operands[1].row[0].size * -(-queries // LEAST) if target.waits else 0

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        found = {}
        for use in sorted(uses, key=lambda use: use.op.page is not None):  # whose tiles fit others
            tiles = {most: config.options() for most, config in use.tiles}
            found[self.key(use.op, use.operands)] = tiles
        return {"TILES": {key: found[key] for key in sorted(found)}}

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        fitting = min((_programs(use, target) for use in uses), default=1)
        each = target.launch * target.bandwidth / target.processors
        return {
            "programs": fitting * target.processors,
            "least": int(each),
            "in_key": any(use.op.value_in_key for use in uses),
            "windows": any(use.op.window is not None for use in uses),
            "caps": any(use.op.softcap is not None for use in uses),
            "sinks": any(len(use.operands) > 4 for use in uses),
            "read_once": any(_sizes(use.op, use.operands, target).in_key for use in uses),
            "apart": not target.waits,
            "wide": WIDE if any(map(_wide, uses)) else 0,
        }

    def call(
        self,
        op: Attend,
        q: Code,
        k: Code,
        v: Code,
        positions: Code,
        sinks: Code | None = None,
        *,
        phases: tuple[str, ...],
        held: Code | None = None,
        table: Code | None = None,
        slots: Code | None = None,
        arrived: Code | None = None,
    ) -> Code:
        in_key = {"value_in_key": True} if op.value_in_key else {}
        options = {**given(op, sinks, held, table, slots, arrived), **in_key}
        return call("decode_attention", q, k, v, positions, op.scale, **options)


def _sizes(op: Attend, operands: tuple[TensorType, ...], target: Target) -> Sizes:
    """With mfma, operands of products are in registers: keys would not leave room to be values."""
    return Sizes.of(operands, op.value_in_key and "mfma" not in target.features)


def _block_m(sizes: Sizes, rows: int, target: Target) -> int:
    """Rows of a tile for so many queries that share keys, as far as a program's registers go.

    Fewer than a group has is what a call of few rows takes: tiles as small as there are.
    """
    queries = min(rows, DECODED.size * sizes.group) if rows >= sizes.group else LEAST
    return min(max(power_of_2(queries), LEAST), _most_queries(sizes, target))


def _most_queries(sizes: Sizes, target: Target) -> int:
    """Rows of a tile: as many as a program's registers hold the results of."""
    if sizes.bytes > 2:
        return LEAST  # exact products: no matrix instruction, and operands twice as large
    if "wgmma" in target.features and sizes.held(64, 32, 3, target) <= target.shared_memory:
        return 64  # rows of its instruction
    return 64 if sizes.value <= 128 else 32


def _steps(sizes: Sizes, block_m: int) -> Iterator[tuple[int, int, int]]:
    """Programs that a processor has room for, slots of a block and blocks in flight, best first.

    Of two programs one reads while the other computes. One with wide results takes all the room,
    since half as many programs leave half as much to combine. Where tiles are high as well, scores
    are products of half a block's slots, each of which reads all queries: 64 slots before 32.
    """
    blocks: tuple[tuple[int, int], ...] = ((64, 3), (64, 2), (32, 3), (32, 2), (16, 2))
    if block_m * sizes.value > WIDE:
        blocks = ((64, 2), (32, 4), (32, 3))
    for programs in (1,) if sizes.value > 256 else (2, 1):
        yield from ((programs, block_n, stages) for block_n, stages in blocks)


def _most_slots(sizes: Sizes, target: Target) -> int:
    """Slots of a block, of which a thread's registers hold a part as well, with mfma all of it."""
    if "mfma" in target.features and sizes.value > 256:
        return LEAST
    return 64 if sizes.bytes <= 2 else 32


def _wide(use: Use) -> bool:
    """Whether a tile's results leave few registers for what a loop could compute beforehand."""
    tiles = (config.constants for _, config in use.tiles)
    return any(tile["BLOCK_M"] * tile["VALUE"] > WIDE for tile in tiles)


def _programs(use: Use, target: Target) -> int:
    """How many programs a processor has room for, of which it needs two."""
    sizes = _sizes(use.op, use.operands, target)
    found = []
    for _, config in use.tiles:
        tile = config.constants
        assert config.num_stages is not None
        held = sizes.held(tile["BLOCK_M"], tile["BLOCK_N"], config.num_stages, target)
        # Of eight warps, a thread may have as many registers as one program leaves.
        found.append(1 if config.num_warps > 4 else min(2, target.shared_memory // held))
    return min(found)
