"""The square of a ReLU as a line of PyTorch."""

from __future__ import annotations

from archsmith.compiler.schedule.code import Code, call
from archsmith.compiler.schedule.kernel import Kernel


class TorchReluSquared(Kernel):
    name = "torch.relu_squared"
    implements = "relu_squared"

    def call(self, op: object, x: Code, *, phases: tuple[str, ...]) -> Code:
        return call("F.relu", x).method("square")
