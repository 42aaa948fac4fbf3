"""RMS normalization in PyTorch."""

from __future__ import annotations

from ...compiler.ops.norm import RmsNorm
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Kernel


class TorchRmsNorm(Kernel):
    name = "torch.rms_norm"
    implements = "rms_norm"
    functions = ("rms_norm",)

    def call(self, op: RmsNorm, x: Code, weight: Code, *, phases: tuple[str, ...]) -> Code:
        offset = {"offset": op.offset} if op.offset else {}
        return call("rms_norm", x, weight, eps=op.eps, **offset)
