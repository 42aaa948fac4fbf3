"""A query absorbed and a latent kept in float8: in PyTorch, and in Triton in one launch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.op import Op
from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.append import AppendQuantizedLatent
from ...compiler.schedule.kernel import Config
from ...compiler.schedule.tiles import power_of_2
from .append_latent import TorchAppendLatent, TritonAppendLatent
from .quantized_rows import TRACED

STEPS = 17  # launches of rounding a latent, and of what else is written


class TorchAppendQuantizedLatent(TorchAppendLatent):
    name = "torch.append_quantized_latent"
    implements = "append_quantized_latent"
    functions = ("append_quantized_latent",)
    parts = ("rows", "quantized_rows")

    def refuses(self, op: Op, operands: tuple[TensorType, ...], target: Target) -> str | None:
        return TRACED if "traced" in target.features else None

    def cost(
        self,
        op: Op,
        operands: tuple[TensorType, ...],
        sizes: Sizes,
        target: Target,
    ) -> Cost:
        """A dozen steps more, each of which reads and writes latents in float32."""
        between = 12 * 2 * sizes.count(operands[3]) * BYTES["float32"]
        return super().cost(op, operands, sizes, target) + Cost(bytes=between, launches=STEPS)


class TritonAppendQuantizedLatent(TritonAppendLatent):
    name = "triton.append_quantized_latent"
    implements = "append_quantized_latent"
    functions = ("append_quantized_latent",)
    reference = "torch.append_quantized_latent"
    parts = ("rows", "quantized_rows", "products", "absorbed", "e4m3")

    def refuses(
        self, op: AppendQuantizedLatent, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        block = op.block.size
        if block != power_of_2(block):
            return f"blocks of {block} are no parts of a tile: they are a power of two"
        return super().refuses(op, operands, target)

    def configs(
        self,
        op: AppendQuantizedLatent,
        operands: tuple[TensorType, ...],
        rows: int,
        target: Target,
    ) -> Iterator[Config]:
        """As `append_latent`, of whose row each block has a row of a tile."""
        for config in super().configs(op, operands, rows, target):
            constants = dict(config.constants)
            columns = constants.pop("LATENT")
            block = min(op.block.size, columns)
            constants |= {"BLOCKS": columns // block, "BLOCK": block}
            yield replace(config, constants=constants)

    def key(self, op: AppendQuantizedLatent, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        return *super().key(op, operands), op.block.size
