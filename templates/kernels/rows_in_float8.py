"""Rows in float8 in Triton: read once, with the scale of each block at hand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.quantized_rows import QuantizeRows
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Config, Kernel, Use
from ...compiler.schedule.tiles import by_width, power_of_2, too_wide, unable, width

EACH = 16  # numbers of a thread


class TritonQuantizeRows(Kernel):
    """It serves calls with a cache: in training gradients pass, which float8 cannot hold."""

    name = "triton.quantize_rows"
    implements = "quantize_rows"
    functions = ("rows_in_float8",)
    parts = ("e4m3",)
    triton = True
    reference = "torch.quantize_rows"
    phases = ("prefill", "decode")

    def refuses(
        self, op: QuantizeRows, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        if reason := unable(operands, target) or too_wide(operands[0]):
            return reason
        block = op.block.size
        if block != power_of_2(block):
            return f"blocks of {block} are no parts of a tile: they are a power of two"
        return None

    def configs(
        self, op: QuantizeRows, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        assert target.triton is not None
        columns = power_of_2(width(operands[0]))
        block = min(op.block.size, columns)
        for each in (EACH, EACH // 2):
            warps = columns // (each * target.triton["warp_size"])
            yield Config({"BLOCKS": columns // block, "BLOCK": block}, min(max(warps, 1), 8))

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return {"TILES": by_width(uses)}

    def call(self, op: QuantizeRows, x: Code, *, phases: tuple[str, ...]) -> Code:
        return call("rows_in_float8", x, int(op.block))
