"""A residual add and the RMS normalization of the sum, in PyTorch."""

from __future__ import annotations

from ...compiler.ops.norm import AddRmsNorm
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Kernel


class TorchAddRmsNorm(Kernel):
    name = "torch.add_rms_norm"
    implements = "add_rms_norm"
    functions = ("add_rms_norm",)

    def call(
        self, op: AddRmsNorm, x: Code, residual: Code, weight: Code, *, phases: tuple[str, ...]
    ) -> Code:
        offset = {"offset": op.offset} if op.offset else {}
        return call("add_rms_norm", x, residual, weight, eps=op.eps, **offset)
