"""Experts in 8 bits in PyTorch: each runs on its tokens, its matrices made wide as it does."""

from __future__ import annotations

from dataclasses import fields

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.quantized_experts import QuantizedExperts
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Kernel


class TorchQuantizedExperts(Kernel):
    name = "torch.quantized_experts"
    implements = "quantized_experts"
    functions = ("quantized_experts",)

    def refuses(
        self, op: QuantizedExperts, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        if "traced" in target.features:
            return "experts in 8 bits are not traced: leave out `quantize-experts`"
        return None

    def cost(
        self, op: QuantizedExperts, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """Matrices are written and read once more as float32; in decode those of all experts."""
        _, index, *_ = operands
        least, share = op.cost(sizes, *operands), op.share(sizes.rows, *operands)[-1]
        experts, width, inner = (axis.size for axis in op.down(operands).row)
        run = experts if sizes.tokens == 1 else share * experts
        wide = 2 * run * 3 * width * inner * BYTES["float32"]
        rows = sizes.rows * run if sizes.tokens == 1 else sizes.count(index)
        between = rows * BYTES["float32"] * (3 * width + 8 * inner)
        times = rows / sizes.count(index)
        return Cost(least.flops * times, least.bytes + wide + between, int(14 * run) + 6)

    def call(self, op: QuantizedExperts, *operands: Code, phases: tuple[str, ...]) -> Code:
        return quantized_call("quantized_experts", op, operands)


def quantized_call(function: str, op: QuantizedExperts, operands: tuple[Code, ...]) -> Code:
    """The call of a function of quantized experts, with what is not its default."""
    usual = {field.name: field.default for field in fields(op)}
    named = ("alpha", "clamp", "up_offset", "activations")
    given = {key: value for key, value in op.attributes().items() if key in named}
    rules = {key: value for key, value in given.items() if value != usual[key]}
    block = int(op.block)
    return call(function, *operands, activation=op.activation, block=block, **rules)
