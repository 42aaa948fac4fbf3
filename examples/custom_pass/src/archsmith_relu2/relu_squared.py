"""The square of a ReLU in Triton: read once, written once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.machine.target import Target
from archsmith.compiler.schedule.code import Code, call
from archsmith.compiler.schedule.kernel import Config, Kernel, Use
from archsmith.compiler.schedule.tiles import unable

from archsmith_relu2.op import ReluSquared


class TritonReluSquared(Kernel):
    name = "triton.relu_squared"
    implements = "relu_squared"
    functions = ("relu_squared",)
    triton = True

    def refuses(
        self, op: ReluSquared, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        return unable(operands, target)

    def configs(
        self, op: ReluSquared, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        yield Config({"BLOCK": 1024}, num_warps=4)

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return {"TILE": uses[0].tiles[-1][1].options()}

    def call(self, op: ReluSquared, x: Code, *, phases: tuple[str, ...]) -> Code:
        return call("relu_squared", x)
