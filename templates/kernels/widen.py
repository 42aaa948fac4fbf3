"""Values in the dtype that reductions accumulate in."""

from __future__ import annotations

from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Kernel


class TorchWiden(Kernel):
    name = "torch.widen"
    implements = "widen"
    functions = ("widen",)

    def call(self, op: object, x: Code, *, phases: tuple[str, ...]) -> Code:
        return call("widen", x)
