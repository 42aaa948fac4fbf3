"""The loss of a linear layer in PyTorch: a part of the vocabulary at a time."""

from __future__ import annotations

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.loss import LinearCrossEntropy
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Kernel


class TorchLinearCrossEntropy(Kernel):
    name = "torch.linear_cross_entropy"
    implements = "linear_cross_entropy"
    functions = ("linear_cross_entropy",)

    def cost(
        self,
        op: LinearCrossEntropy,
        operands: tuple[TensorType, ...],
        sizes: Sizes,
        target: Target,
    ) -> Cost:
        """Each logit is written and read, then as often again in float32 for its exponential."""
        _, weight, targets = operands
        logits = sizes.count(targets) * weight.row[0].size
        return op.cost(sizes, *operands) + Cost(bytes=16 * logits, launches=16)

    def call(self, op: LinearCrossEntropy, *operands: Code, phases: tuple[str, ...]) -> Code:
        return loss_call("linear_cross_entropy", op, operands)


def loss_call(function: str, op: LinearCrossEntropy, operands: tuple[Code, ...]) -> Code:
    """The call of a function of the loss, with what is not its default."""
    scale = {} if op.scale == 1.0 else {"scale": op.scale}
    softcap = {} if op.softcap is None else {"softcap": op.softcap}
    return call(function, *operands, **scale, **softcap)
