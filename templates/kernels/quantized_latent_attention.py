"""Attention of many query heads to a latent in float8 in Gluon: made wide once, no score twice."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.cost import Cost
from ...compiler.ir.cost import Sizes as Call
from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.quantized_attention import QuantizedAttend
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Config, Kernel, Use
from ...compiler.schedule.tiles import power_of_2, unable
from .attention import pageless
from .latent_attention import ROWS, SLOTS, SWIZZLED, WIDEST, launches

BLOCKS = (64, 128)  # columns of a scale, which all threads make wide at a time
SCRATCH = 512  # bytes in which the warp groups tell each other of their scores


class GluonQuantizedLatentAttention(Kernel):
    name = "gluon.quantized_latent_attention"
    implements = "quantized_attend"
    functions = ("quantized_latent_attention",)
    parts = ("gluon", "latent_tiles", "quantized_latent_split", "latent_parts")
    triton = True
    gluon = True
    reference = "triton.quantized_attention"
    phases = ("decode",)

    def refuses(
        self, op: QuantizedAttend, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        if reason := unable(operands, target):
            return reason
        if op.scale <= 0:
            return f"a scale of {op.scale} turns the largest score into the least"
        if missing := [name for name in ("wgmma", "fp8") if name not in target.features]:
            return f"{target.name} has no {missing[0]}, which it is written for"
        key, rest, heads = _sizes(operands)
        if BYTES[operands[0].dtype] != 2:
            return f"its tiles are of 16 bits, not of {operands[0].dtype}"
        if heads < ROWS:
            return f"{heads} query heads do not fill a tile of {ROWS}"
        if any(n != power_of_2(n) or not SWIZZLED <= n <= WIDEST for n in (key, rest)):
            return f"rows of {key} and {rest} are no powers of two from {SWIZZLED} to {WIDEST}"
        if op.block.size not in BLOCKS or key % op.block.size:
            return f"blocks of {op.block.size} columns are none of {BLOCKS} that rows consist of"
        if reason := pageless(op, SLOTS):
            return reason
        held = _held(key, rest, key // op.block.size)
        if held > target.shared_memory:
            return f"a tile takes {held} bytes of {target.shared_memory} of shared memory"
        return None

    def cost(
        self, op: QuantizedAttend, operands: tuple[TensorType, ...], sizes: Call, target: Target
    ) -> Cost:
        tiles = -(-sizes.tokens * _sizes(operands)[-1] // ROWS)
        return op.cost(sizes, *operands) + launches(sizes.batch * tiles, target)

    def configs(
        self, op: QuantizedAttend, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        key, rest, _ = _sizes(operands)
        columns = {"KEY": key, "SCALES": key // op.block.size, "REST": rest}
        yield Config({**columns, "BLOCK_M": ROWS, "BLOCK_N": SLOTS}, num_warps=8)

    def key(self, op: QuantizedAttend, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        return _sizes(operands)

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        tiles = {_sizes(use.operands): use.tiles[-1][1].options() for use in uses}
        return {"TILES": {key: tiles[key] for key in sorted(tiles)}}

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return {"processors": target.processors}

    def call(
        self,
        op: QuantizedAttend,
        *operands: Code,
        phases: tuple[str, ...],
        table: Code | None = None,
        slots: Code | None = None,
    ) -> Code:
        pages = {} if table is None else {"table": table, "slots": slots}
        arguments = (*operands, op.scale, int(op.block))
        return call("quantized_latent_attention", *arguments, **pages)


def _sizes(operands: tuple[TensorType, ...]) -> tuple[int, int, int]:
    """Numbers of a row in float8, those of the rest, and the heads of a query."""
    q, numbers, _, rest, _ = operands
    return numbers.row[0].size, rest.row[0].size, q.row[0].size


def _held(key: int, rest: int, scales: int) -> int:
    """Bytes of queries, a block that is wide, weights, and two blocks as they are kept."""
    wide = 2 * (ROWS * (key + rest) + SLOTS * key + ROWS * SLOTS)
    return wide + 2 * SLOTS * (key + 4 * scales + 2 * rest) + SCRATCH
