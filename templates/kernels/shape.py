"""Structure as lines of PyTorch."""

from __future__ import annotations

from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.shape import Concat, Expand, Flatten, Split, Unbind, Unflatten
from ...compiler.schedule.code import Code, call, tuple_of
from ...compiler.schedule.kernel import Kernel


class TorchSplit(Kernel):
    name = "torch.split"
    implements = "split"

    def call(self, op: Split, x: Code, *, phases: tuple[str, ...]) -> Code:
        return x.method("split", tuple(map(int, op.sizes)), op.axis)


class TorchUnbind(Kernel):
    name = "torch.unbind"
    implements = "unbind"

    def call(self, op: Unbind, x: Code, *, phases: tuple[str, ...]) -> Code:
        return x.method("unbind", op.axis)


class TorchConcat(Kernel):
    name = "torch.concat"
    implements = "concat"

    def call(self, op: Concat, *operands: Code, phases: tuple[str, ...]) -> Code:
        return call("torch.cat", tuple_of(*operands), op.axis)


class TorchUnflatten(Kernel):
    name = "torch.unflatten"
    implements = "unflatten"

    def call(self, op: Unflatten, x: Code, *, phases: tuple[str, ...]) -> Code:
        return x.method("unflatten", op.axis, tuple(map(int, op.sizes)))


class TorchFlatten(Kernel):
    name = "torch.flatten"
    implements = "flatten"

    def call(self, op: Flatten, x: Code, *, phases: tuple[str, ...]) -> Code:
        return x.method("flatten", op.axis, op.axis + 1)


class TorchExpand(Kernel):
    name = "torch.expand"
    implements = "expand"

    def refuses(self, op: Expand, operands: tuple[TensorType, ...], target: Target) -> str | None:
        return None if len(operands[0].shape) == 3 else f"{operands[0]} is no row a token"

    def call(self, op: Expand, x: Code, *, phases: tuple[str, ...]) -> Code:
        return x[..., None, :].method("expand", -1, -1, int(op.count), -1)


class TorchExpandWeight(Kernel):
    name = "torch.expand_weight"
    implements = "expand"

    def refuses(self, op: Expand, operands: tuple[TensorType, ...], target: Target) -> str | None:
        return None if len(operands[0].shape) == 2 else f"{operands[0]} is no matrix"

    def call(self, op: Expand, x: Code, *, phases: tuple[str, ...]) -> Code:
        return x[..., None, :].method("expand", -1, int(op.count), -1)
