"""Layer normalization as a line of PyTorch."""

from __future__ import annotations

from ...compiler.ops.norm import LayerNorm
from ...compiler.schedule.code import Code, as_code, call
from ...compiler.schedule.kernel import Kernel


class TorchLayerNorm(Kernel):
    name = "torch.layer_norm"
    implements = "layer_norm"

    def call(
        self,
        op: LayerNorm,
        x: Code,
        weight: Code | None = None,
        bias: Code | None = None,
        *,
        phases: tuple[str, ...],
    ) -> Code:
        if weight is None:
            return call("F.layer_norm", x, x.method("size")[-1:], eps=op.eps)
        gain = weight + as_code(op.offset) if op.offset else weight
        return call("F.layer_norm", x, weight.method("size"), gain, bias, eps=op.eps)
