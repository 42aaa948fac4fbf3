"""Attention to rows in float8 in PyTorch: they are made wide, and then attended to."""

from __future__ import annotations

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.quantized_attention import QuantizedAttend
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Kernel
from .attend import causal
from .quantized_rows import TRACED


class TorchQuantizedAttend(Kernel):
    name = "torch.quantized_attend"
    implements = "quantized_attend"
    functions = ("quantized_attend",)
    parts = ("attend", "quantized_rows")

    def refuses(
        self, op: QuantizedAttend, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        return TRACED if "traced" in target.features else None

    def cost(
        self, op: QuantizedAttend, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """The context is made wide in steps, and read as attention does elsewhere."""
        _, numbers, _, rest, _ = operands
        wide = 7 * BYTES["float32"] * sizes.count(numbers)
        row = (sizes.count(numbers) + sizes.count(rest)) * BYTES[rest.dtype]
        gathered = Cost(bytes=3 * sum(map(sizes.bytes, operands[1:4])), launches=12)
        steps = Cost(bytes=wide + 2 * row, launches=9)
        return op.cost(sizes, *operands) + steps + (gathered if op.page is not None else Cost())

    def call(
        self,
        op: QuantizedAttend,
        *operands: Code,
        phases: tuple[str, ...],
        table: Code | None = None,
        slots: Code | None = None,
    ) -> Code:
        pages = {} if table is None else {"table": table, "slots": slots}
        options = {"scale": op.scale, "block": int(op.block), "causal": causal(phases)}
        return call("quantized_attend", *operands, **options, **pages)
