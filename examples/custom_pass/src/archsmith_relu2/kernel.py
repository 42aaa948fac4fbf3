"""The square of a ReLU as a line of PyTorch."""

from __future__ import annotations

from archsmith.compiler.ir.cost import Cost, Sizes
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.machine.target import Target
from archsmith.compiler.schedule.code import Code, call
from archsmith.compiler.schedule.kernel import Kernel

from archsmith_relu2.op import ReluSquared


class TorchReluSquared(Kernel):
    name = "torch.relu_squared"
    implements = "relu_squared"

    def cost(
        self, op: ReluSquared, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """Two steps: what the first writes, the second reads."""
        between = Cost(bytes=2 * sizes.bytes(operands[0]), launches=2)
        return op.cost(sizes, *operands) + between

    def call(self, op: ReluSquared, x: Code, *, phases: tuple[str, ...]) -> Code:
        return call("F.relu", x).method("square")
