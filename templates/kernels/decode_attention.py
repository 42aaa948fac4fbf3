"""Attention of one query a row in Triton: its context is split among programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.cost import Cost
from ...compiler.ir.cost import Sizes as Call
from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.attention import Attend
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Config, Kernel, Use
from ...compiler.schedule.tiles import power_of_2
from .attention import LEAST, Sizes, refusal

MOST = 64  # query heads of a tile; more of them are tiles of their own


class TritonDecodeAttention(Kernel):
    name = "triton.decode_attention"
    implements = "attend"
    functions = ("decode_attention",)
    triton = True
    reference = "torch.attend"
    phases = ("decode",)

    def refuses(self, op: Attend, operands: tuple[TensorType, ...], target: Target) -> str | None:
        if reason := refusal(op, operands, target):
            return reason
        if next(self.configs(op, operands, 1, target), None) is None:
            return f"no tile fits the shared memory of {target.shared_memory} bytes"
        return None

    def cost(
        self, op: Attend, operands: tuple[TensorType, ...], sizes: Call, target: Target
    ) -> Cost:
        """Where rows are few, a second launch combines what the programs of each have found."""
        alone = sizes.batch * operands[1].row[0].size
        return op.cost(sizes, *operands) + Cost(launches=1 if alone > target.processors else 2)

    def configs(
        self, op: Attend, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        sizes = Sizes.of(operands)
        block_m = min(max(power_of_2(sizes.group), LEAST), _most_heads(sizes))
        # Two programs to a processor: one reads while the other computes.
        for programs in (2, 1):
            for block_n, stages in ((64, 3), (64, 2), (32, 3), (32, 2), (16, 2)):
                held = sizes.held(block_m, block_n, stages, target)
                if programs * held <= target.shared_memory and block_n <= _most_slots(sizes):
                    constants = {**sizes.columns, "BLOCK_M": block_m, "BLOCK_N": block_n}
                    best = 8 if sizes.value > 256 else 4
                    for warps in (best, 8):  # never fewer than the best: registers would spill
                        yield Config(constants, warps, stages)

    def key(self, op: Attend, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        return Sizes.of(operands).key

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        tiles = {Sizes.of(use.operands).key: use.tiles[-1][1].options() for use in uses}
        return {"TILES": {key: tiles[key] for key in sorted(tiles)}}

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        fitting = min((_programs(use, target) for use in uses), default=1)
        each = target.launch * target.bandwidth / target.processors
        return {"programs": fitting * target.processors, "least": int(each)}

    def call(
        self, op: Attend, q: Code, k: Code, v: Code, positions: Code, *, phases: tuple[str, ...]
    ) -> Code:
        return call("decode_attention", q, k, v, positions, op.scale)


def _most_heads(sizes: Sizes) -> int:
    """Query heads of a tile: as many as a program's registers hold the results of."""
    if sizes.bytes > 2:
        return LEAST  # exact products: no matrix instruction, and operands twice as large
    return MOST if sizes.value <= 128 else MOST // 2


def _most_slots(sizes: Sizes) -> int:
    """Slots of a block, of which a thread's registers hold a part as well."""
    return 64 if sizes.bytes <= 2 else 32


def _programs(use: Use, target: Target) -> int:
    """How many programs a processor has room for, of which it needs two."""
    sizes, config = Sizes.of(use.operands), use.tiles[-1][1]
    tile = config.constants
    assert config.num_stages is not None
    held = sizes.held(tile["BLOCK_M"], tile["BLOCK_N"], config.num_stages, target)
    return min(2, target.shared_memory // held)
