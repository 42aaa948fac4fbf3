"""RMS normalization: in PyTorch, and in Triton with whole rows for a program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.norm import RmsNorm
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Config, Kernel, Use
from ...compiler.schedule.tiles import by_width, masked, row_configs, too_wide, unable, width


class TorchRmsNorm(Kernel):
    name = "torch.rms_norm"
    implements = "rms_norm"
    functions = ("rms_norm",)

    def cost(
        self, op: RmsNorm, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """Nine steps, each of which reads or writes rows in float32 that no step keeps, or seven
        where no gain is widened and multiplied with."""
        gain = len(operands) > 1
        kept = 4 * sizes.count(operands[0])
        between = Cost(bytes=(8 if gain else 6) * kept, launches=9 if gain else 7)
        return op.cost(sizes, *operands) + between

    def call(
        self, op: RmsNorm, x: Code, weight: Code | None = None, *, phases: tuple[str, ...]
    ) -> Code:
        offset = {"offset": op.offset} if op.offset else {}
        return call("rms_norm", x, weight, eps=op.eps, **offset)

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return {"gainless": any(len(use.operands) < 2 for use in uses)}


class TritonRmsNorm(Kernel):
    name = "triton.rms_norm"
    implements = "rms_norm"
    functions = ("rms_norm",)
    triton = True
    reference = "torch.rms_norm"
    call = TorchRmsNorm.call

    def refuses(self, op: RmsNorm, operands: tuple[TensorType, ...], target: Target) -> str | None:
        return unable(operands, target) or too_wide(operands[0])

    def configs(
        self, op: RmsNorm, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        yield from row_configs(operands[0], target)

    def key(self, op: RmsNorm, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        return (width(operands[0]),)

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return {"TILES": by_width(uses)}

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return {
            "masked": masked(uses),
            "offset": any(use.op.offset for use in uses),
            "gainless": any(len(use.operands) < 2 for use in uses),
            "heads": any(len(use.operands[0].shape) > 3 for use in uses),
        }
