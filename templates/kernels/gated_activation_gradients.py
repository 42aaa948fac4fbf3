"""Gradients of a gated activation in Triton: all that is read is read once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.elementwise import GatedActivation
from ...compiler.schedule.code import Code, as_code, call, tuple_of
from ...compiler.schedule.kernel import Config, GradientKernel, Use
from ...compiler.schedule.tiles import width
from .activations import activations, derivatives, in_steps
from .gated_activation import TritonGatedActivation


class GatedActivationGradients(GradientKernel):
    name = "triton.gated_activation_gradients"
    differentiates = "triton.gated_activation"
    functions = ("gated_activation_gradients",)

    def refuses(
        self, op: GatedActivation, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        if op.function not in derivatives("gate"):
            return f"it has no text for the derivative of {op.function}"
        return TritonGatedActivation().refuses(op, operands, target)

    def configs(
        self, op: GatedActivation, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        yield from TritonGatedActivation().configs(op, operands, rows, target)

    def key(self, op: GatedActivation, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        return (width(operands[0]),)

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return {"TILES": {width(use.operands[0]): use.tiles[-1][1].options() for use in uses}}

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        used = sorted({use.op.function for use in uses})
        texts, slopes = activations("gate"), derivatives("gate")
        return {
            "functions": [(as_code(f), texts[f], in_steps(slopes[f])) for f in used],
            "masked": TritonGatedActivation().values(uses, target)["masked"],
        }

    def call(
        self, op: GatedActivation, gate: Code, up: Code, dy: Code, *, phases: tuple[str, ...]
    ) -> Code:
        wanted = tuple_of(True, True)
        return call("gated_activation_gradients", gate, up, op.function, dy, wanted)
