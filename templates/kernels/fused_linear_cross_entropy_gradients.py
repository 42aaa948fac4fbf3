"""Gradients of the loss of a linear layer in Triton, a part of the vocabulary at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.loss import LinearCrossEntropy
from ...compiler.schedule.code import Code, call, tuple_of
from ...compiler.schedule.kernel import GradientKernel, Use
from ...compiler.schedule.tiles import unable
from .fused_linear_cross_entropy import described

# Of the vocabulary, whose gradients are in memory at a time. Between two such parts the gradient of
# x is read and written in float32, which takes bandwidth for 4 bytes where the products of a part
# take 3 * COLUMNS operations: at 8,192 some hundredths of their time.
COLUMNS = 8192


class LinearCrossEntropyGradients(GradientKernel):
    name = "triton.linear_cross_entropy_gradients"
    differentiates = "triton.linear_cross_entropy"
    functions = ("fused_linear_cross_entropy_gradients",)
    saved = (1,)  # the log-sum-exp, without which a tile does not know its shares

    def refuses(
        self, op: LinearCrossEntropy, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        return unable(operands, target)

    def call(self, op: LinearCrossEntropy, *given: Code, phases: tuple[str, ...]) -> Code:
        operands, others = given[:3], given[3:]
        wanted = tuple_of(True, True)
        return call(self.functions[0], *operands, op.scale, op.softcap, *others, wanted)

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return {"COLUMNS": COLUMNS}

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return {"described": any(described(use.operands, target) for use in uses)}
