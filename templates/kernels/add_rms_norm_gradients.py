"""Gradients of a residual add and the RMS norm of the sum, in Triton in one trip."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.norm import AddRmsNorm
from ...compiler.schedule.code import Code, as_code, call, name, tuple_of
from ...compiler.schedule.kernel import Config, GradientKernel, Use
from ...compiler.schedule.tiles import masked, unable, width
from .rms_norm_gradients import RmsNormGradients, row_configs, tables, too_wide


class AddRmsNormGradients(GradientKernel):
    name = "triton.add_rms_norm_gradients"
    differentiates = "triton.add_rms_norm"
    functions = ("add_rms_norm_gradients",)
    template = RmsNormGradients.template

    def refuses(
        self, op: AddRmsNorm, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        return unable(operands, target) or too_wide(operands[0])

    def configs(
        self, op: AddRmsNorm, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        yield from row_configs(operands[0], 3, target)

    def key(self, op: AddRmsNorm, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        return (width(operands[0]),)

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return tables(uses, target)

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return {
            "function": name("add_rms_norm_gradients"),
            "summed": True,
            "masked": masked(uses),
            "offset": any(use.op.offset for use in uses),
            "gainless": any(len(use.operands) < 3 for use in uses),
            "heads": False,
        }

    def call(
        self, op: AddRmsNorm, total: Code, residual: Code, *others: Code, phases: tuple[str, ...]
    ) -> Code:
        """The sum stands for its summands, and has the type of each."""
        *weight, dtotal, dy = others
        gain, offset = (weight or [as_code(None)]), ([as_code(op.offset)] if op.offset else [])
        wanted = tuple_of(True, *(True for _ in weight))
        return call("add_rms_norm_gradients", total, *gain, op.eps, *offset, dtotal, dy, wanted)
