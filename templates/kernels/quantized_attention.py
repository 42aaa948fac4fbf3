"""Attention to rows in float8 in Triton: programs share out a context, and make it wide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.model import DECODED
from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.quantized_attention import QuantizedAttend
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Config, Kernel, Use
from ...compiler.schedule.tiles import power_of_2, unable
from .attention import combining

LEAST = 16  # a matrix instruction takes no fewer of any axis
WIDEST = 512  # numbers of a row: more of them leave no room for a block of slots
BARRIERS = 2048  # bytes beside the tiles


class TritonQuantizedAttention(Kernel):
    name = "triton.quantized_attention"
    implements = "quantized_attend"
    functions = ("quantized_attention",)
    parts = ("quantized_split", "splits")
    triton = True
    reference = "torch.quantized_attend"
    phases = ("decode",)

    def refuses(
        self, op: QuantizedAttend, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        if reason := unable(operands, target):
            return reason
        if op.scale <= 0:
            return f"a scale of {op.scale} turns the largest score into the least"
        block, (columns, rest, _) = op.block.size, _sizes(operands)
        if block < LEAST or block != power_of_2(block):
            return f"blocks of {block} are no parts of a tile: they are a power of two from 16 on"
        if columns > WIDEST or rest > WIDEST:
            return f"rows of {columns} and {rest} leave no room for a block of slots"
        if op.page is not None and op.page.size % LEAST:
            return f"a block of {LEAST} slots lies in no page of {op.page.size}"
        if next(self.configs(op, operands, 1, target), None) is None:
            return f"no tile fits the shared memory of {target.shared_memory} bytes"
        return None

    def cost(
        self, op: QuantizedAttend, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        return op.cost(sizes, *operands) + Cost(launches=1) + combining(sizes.batch, target)

    def configs(
        self, op: QuantizedAttend, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        columns, rest, heads = _sizes(operands)
        key, other = (max(power_of_2(n), LEAST) for n in (columns, rest))
        item = BYTES[operands[0].dtype]
        # Tried with both ends of the Triton that is supported: larger tiles spill registers, and
        # where float8 is made wide by arithmetic so do those of 32 queries, or of more in flight.
        narrow, mfma = "fp8" not in target.features, "mfma" in target.features
        most = LEAST if item > 2 or (narrow and not mfma) else 2 * LEAST
        block_m = min(max(power_of_2(heads), LEAST), most)
        # A wavefront's threads have more registers than a warp's: they are enough for all of it.
        warps = 4 if mfma else 8
        part = min(max(key // warps, LEAST), op.block.size)
        for block_n, stages in ((32, 3), (32, 2), (16, 3), (16, 2)):
            if op.page is not None and op.page.size % block_n:
                continue
            if narrow and block_n * max(stages * LEAST, 2 * block_m) > 32 * 2 * LEAST:
                continue
            flight = block_n * (key + other * item + 4 * key // part)
            held = stages * flight + block_m * block_n * key // part * 4 + BARRIERS
            if held <= target.shared_memory:
                parts = {"PARTS": key // part, "PART": part, "REST": other}
                constants = {**parts, "BLOCK_M": block_m, "BLOCK_N": block_n}
                yield Config(constants, warps, stages)

    def key(self, op: QuantizedAttend, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        return _sizes(operands)

    def counters(
        self, op: QuantizedAttend, operands: tuple[TensorType, ...], target: Target
    ) -> int:
        """One for each tile of queries."""
        queries = DECODED.size * _sizes(operands)[-1]
        return -(-queries // LEAST) if target.waits else 0

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        tiles = {_sizes(use.operands): use.tiles[-1][1].options() for use in uses}
        return {"TILES": {key: tiles[key] for key in sorted(tiles)}}

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        each = target.launch * target.bandwidth / target.processors
        return {
            "programs": target.processors,
            "least": int(each),
            "decoded": "fp8" not in target.features,
            "apart": not target.waits,
        }

    def call(
        self,
        op: QuantizedAttend,
        *operands: Code,
        phases: tuple[str, ...],
        table: Code | None = None,
        slots: Code | None = None,
        arrived: Code | None = None,
    ) -> Code:
        options = {"table": table, "slots": slots, "arrived": arrived}
        options = {key: value for key, value in options.items() if value is not None}
        return call("quantized_attention", *operands, op.scale, int(op.block), **options)


def _sizes(operands: tuple[TensorType, ...]) -> tuple[int, int, int]:
    """Numbers of a row in float8, those of the rest, and the heads of a query."""
    q, numbers, _, rest, _ = operands
    return numbers.row[0].size, rest.row[0].size, q.row[0].size
