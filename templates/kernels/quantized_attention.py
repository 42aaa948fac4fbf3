"""Attention to rows in float8 in Triton: programs share out a context, and make it wide."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.quantized_attention import QuantizedAttend
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Config, Kernel, Use
from ...compiler.schedule.tiles import power_of_2, unable

LEAST = 16  # a matrix instruction takes no fewer of any axis
WIDEST = 512  # numbers of a row: more of them leave no room for a block of slots
BARRIERS = 2048  # bytes beside the tiles


class TritonQuantizedAttention(Kernel):
    name = "triton.quantized_attention"
    implements = "quantized_attend"
    functions = ("quantized_attention",)
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
        if next(self.configs(op, operands, 1, target), None) is None:
            return f"no tile fits the shared memory of {target.shared_memory} bytes"
        return None

    def cost(
        self, op: QuantizedAttend, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """Where rows are few, counters of those that have arrived are set to zero first."""
        alone = sizes.batch > target.processors
        return op.cost(sizes, *operands) + Cost(launches=1 if alone else 2)

    def configs(
        self, op: QuantizedAttend, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        columns, rest, heads = _sizes(operands)
        block = min(op.block.size, max(power_of_2(columns), LEAST))
        key, other = (max(power_of_2(n), LEAST) for n in (columns, rest))
        item = BYTES[operands[0].dtype]
        most = 16 if item > 2 or heads <= 16 else 32
        block_m = min(max(power_of_2(heads), LEAST), most)
        # A wavefront's threads have more registers than a warp's: they are enough for all of it.
        warps = 4 if "mfma" in target.features else 8
        for block_n, stages in ((64, 2), (32, 3), (32, 2), (16, 3), (16, 2)):
            flight = block_n * (key + other * item + 4 * key // block)
            held = stages * flight + block_m * block_n * key // block * item + BARRIERS
            if held <= target.shared_memory and block_n * block_m * item <= _most(target):
                blocks = {"BLOCKS": key // block, "BLOCK": block, "REST": other}
                constants = {**blocks, "BLOCK_M": block_m, "BLOCK_N": block_n}
                yield Config(constants, warps, stages)

    def key(self, op: QuantizedAttend, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        return _sizes(operands)

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        tiles = {_sizes(use.operands): use.tiles[-1][1].options() for use in uses}
        return {"TILES": {key: tiles[key] for key in sorted(tiles)}}

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        each = target.launch * target.bandwidth / target.processors
        return {
            "programs": target.processors,
            "least": int(each),
            "decoded": "fp8" not in target.features,
        }

    def call(self, op: QuantizedAttend, *operands: Code, phases: tuple[str, ...]) -> Code:
        return call("quantized_attention", *operands, op.scale, int(op.block))


def _sizes(operands: tuple[TensorType, ...]) -> tuple[int, int, int]:
    """Numbers of a row in float8, those of the rest, and the heads of a query."""
    q, numbers, _, rest, _ = operands
    return numbers.row[0].size, rest.row[0].size, q.row[0].size


def _most(target: Target) -> int:
    """Bytes of a tile of scores, as wide as operands: with more of them registers are spilled."""
    return 2048 if "fp8" in target.features else 1024
