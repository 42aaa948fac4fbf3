"""Elementwise ops as lines of PyTorch."""

from __future__ import annotations

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.elementwise import Activation, Clamp, Scale, SigmoidGate, Softcap
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Kernel


class TorchAdd(Kernel):
    name = "torch.add"
    implements = "add"

    def call(self, op: object, x: Code, y: Code, *, phases: tuple[str, ...]) -> Code:
        return x + y


class TorchMul(Kernel):
    name = "torch.mul"
    implements = "mul"

    def call(self, op: object, x: Code, y: Code, *, phases: tuple[str, ...]) -> Code:
        return x * y


class TorchScale(Kernel):
    name = "torch.scale"
    implements = "scale"

    def call(self, op: Scale, x: Code, *, phases: tuple[str, ...]) -> Code:
        return x * (x.method("new_full", (), op.factor) if op.stored else op.factor)


class TorchSoftcap(Kernel):
    name = "torch.softcap"
    implements = "softcap"

    def cost(
        self, op: Softcap, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """Three steps: what one writes, the next reads."""
        return op.cost(sizes, *operands) + Cost(bytes=4 * sizes.bytes(operands[0]), launches=3)

    def call(self, op: Softcap, x: Code, *, phases: tuple[str, ...]) -> Code:
        return call("torch.tanh", x / op.cap) * op.cap


class TorchClamp(Kernel):
    name = "torch.clamp"
    implements = "clamp"

    def call(self, op: Clamp, x: Code, *, phases: tuple[str, ...]) -> Code:
        limits = {"min": op.low, "max": op.high}
        return x.method("clamp", **{key: v for key, v in limits.items() if v is not None})


class TorchSigmoidGate(Kernel):
    name = "torch.sigmoid_gate"
    implements = "sigmoid_gate"

    def cost(
        self, op: SigmoidGate, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """Two steps: what the first writes, the second reads."""
        between = Cost(bytes=2 * sizes.bytes(operands[1]), launches=2)
        return op.cost(sizes, *operands) + between

    def call(self, op: SigmoidGate, x: Code, logit: Code, *, phases: tuple[str, ...]) -> Code:
        return call("torch.sigmoid", logit) * x


class TorchZeros(Kernel):
    name = "torch.zeros"
    implements = "zeros"

    def call(self, op: object, x: Code, *, phases: tuple[str, ...]) -> Code:
        return call("torch.zeros_like", x)


class TorchActivation(Kernel):
    name = "torch.activation"
    implements = "activation"

    def call(self, op: Activation, x: Code, *, phases: tuple[str, ...]) -> Code:
        if op.function == "gelu_tanh":
            return call("F.gelu", x, approximate="tanh")
        return call(f"F.{op.function}", x)
