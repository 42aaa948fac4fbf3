"""Rows in float8 in PyTorch: made of rows of a call, and made wide for who reads them."""

from __future__ import annotations

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.quantized_rows import DequantizeRows, QuantizeRows
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Kernel

TRACED = "rows in float8 are not traced: leave out `quantize-kv`"


class TorchQuantizeRows(Kernel):
    name = "torch.quantize_rows"
    implements = "quantize_rows"
    functions = ("quantize_rows",)

    def refuses(
        self, op: QuantizeRows, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        return TRACED if "traced" in target.features else None

    def cost(
        self, op: QuantizeRows, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """A dozen steps, each of which reads and writes rows in float32."""
        between = 12 * 2 * sizes.count(operands[0]) * BYTES["float32"]
        return op.cost(sizes, *operands) + Cost(bytes=between, launches=14)

    def call(self, op: QuantizeRows, x: Code, *, phases: tuple[str, ...]) -> Code:
        return call("quantize_rows", x, int(op.block))


class TorchDequantizeRows(Kernel):
    name = "torch.dequantize_rows"
    implements = "dequantize_rows"
    functions = ("dequantize_rows",)

    def refuses(
        self, op: DequantizeRows, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        return TRACED if "traced" in target.features else None

    def cost(
        self, op: DequantizeRows, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """Numbers in float32, their scales, their products, and these in the rest's dtype."""
        between = 7 * sizes.count(operands[0]) * BYTES["float32"]
        return op.cost(sizes, *operands) + Cost(bytes=between, launches=5)

    def call(
        self, op: DequantizeRows, numbers: Code, numbers_scale: Code, rest: Code, *,
        phases: tuple[str, ...],
    ) -> Code:  # fmt: skip
        return call("dequantize_rows", numbers, numbers_scale, rest, int(op.block))
