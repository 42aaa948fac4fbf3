"""A residual add and the RMS norm of the sum: in PyTorch, and in Triton in one trip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.norm import AddRmsNorm
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Config, Kernel, Use
from ...compiler.schedule.tiles import by_width, masked, row_configs, too_wide, unable, width


class TorchAddRmsNorm(Kernel):
    name = "torch.add_rms_norm"
    implements = "add_rms_norm"
    functions = ("add_rms_norm",)

    def cost(
        self, op: AddRmsNorm, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """After the sum, nine steps that read or write rows in float32 that no step keeps, or
        seven where no gain is widened and multiplied with."""
        gain = len(operands) > 2
        kept = 4 * sizes.count(operands[0])
        between = Cost(bytes=(8 if gain else 6) * kept, launches=10 if gain else 8)
        return op.cost(sizes, *operands) + between

    def call(
        self,
        op: AddRmsNorm,
        x: Code,
        residual: Code,
        weight: Code | None = None,
        *,
        phases: tuple[str, ...],
    ) -> Code:
        offset = {"offset": op.offset} if op.offset else {}
        return call("add_rms_norm", x, residual, weight, eps=op.eps, **offset)

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return {"gainless": any(len(use.operands) < 3 for use in uses)}


class TritonAddRmsNorm(Kernel):
    name = "triton.add_rms_norm"
    implements = "add_rms_norm"
    functions = ("add_rms_norm",)
    triton = True
    reference = "torch.add_rms_norm"
    call = TorchAddRmsNorm.call

    def refuses(
        self, op: AddRmsNorm, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        return unable(operands, target) or too_wide(operands[0])

    def configs(
        self, op: AddRmsNorm, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        yield from row_configs(operands[0], target)

    def key(self, op: AddRmsNorm, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        return (width(operands[0]),)

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return {"TILES": by_width(uses)}

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return {
            "masked": masked(uses),
            "offset": any(use.op.offset for use in uses),
            "gainless": any(len(use.operands) < 3 for use in uses),
        }
