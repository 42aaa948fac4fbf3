"""A residual added, the sum normed, and the choice of experts by it: in PyTorch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.moe import NormRouter, Router
from ...compiler.ops.norm import AddRmsNorm
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Kernel, Step, Use
from .add_rms_norm import TorchAddRmsNorm
from .route import TorchRouter, rules


class TorchNormRouter(Kernel):
    name = "torch.norm_router"
    implements = "norm_router"
    functions = ("norm_router",)
    reference = "torch.router"
    phases = ("prefill", "decode")

    def beside(self, op: NormRouter, operands: tuple[TensorType, ...]) -> Iterator[Step]:
        yield Step(TorchAddRmsNorm(), AddRmsNorm(op.eps, op.offset), operands[:3])

    def cost(
        self, op: NormRouter, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """Step by step: what is normed is written and read between them."""
        (norm,), (_, normed, *_) = self.beside(op, operands), op.types(*operands)
        choice = {key: value for key, value in op.attributes().items() if key not in NORM}
        first = norm.kernel.cost(norm.op, norm.operands, sizes, target)
        others = normed, *operands[3:]
        return first + TorchRouter().cost(Router(**choice), others, sizes, target)

    def call(
        self,
        op: NormRouter,
        x: Code,
        residual: Code,
        gain: Code,
        weight: Code,
        bias: Code | None = None,
        *,
        phases: tuple[str, ...],
    ) -> Code:
        operands = [x, residual, gain, weight] + ([] if bias is None else [bias])
        offset = {"offset": op.offset} if op.offset else {}
        return call("norm_router", *operands, eps=op.eps, **offset, **rules(op))

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return {"offset": any(use.op.offset for use in uses)}


NORM = ("eps", "offset")
"""The attributes of the norm."""
