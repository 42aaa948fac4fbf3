"""What a model is trained by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir.cost import Cost, Sizes
from ..ir.op import Array, Indices, Op, require
from ..ir.types import TensorType

IGNORED = -100  # a target that does not count, as for PyTorch


@dataclass(frozen=True)
class LinearCrossEntropy(Op):
    """The cross entropy of `softcap(scale * weight x)` with a target for each token, in nats.

    x [B, T, D], weight [V, D] and targets int64 [B, T], each of 0..V-1 or `IGNORED`; the results
    are, both in float32 or wider and [B, T], the losses, 0 where a target is ignored, and of each
    token the logarithm of the sum of exp(logit).
    """

    name = "linear_cross_entropy"

    scale: float = 1.0
    softcap: float | None = None
    """Keeps logits within it, as the op of that name."""

    def infer(
        self, x: TensorType, weight: TensorType, targets: TensorType
    ) -> tuple[TensorType, TensorType]:
        fits = len(weight.shape) == 2 and weight.shape[1:] == x.shape[-1:]
        require(fits and weight.dtype == x.dtype, f"{weight} is no weight for {x}")
        of = TensorType("int64", x.shape[:-1])
        require(targets == of, f"targets are {targets}, not {of}")
        losses = TensorType(x.dtype, x.shape[:-1]).wide
        return losses, losses

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        """Each logit is a product; no logit need be in memory."""
        _, weight, targets = operands
        flops = 2 * sizes.count(targets) * sizes.count(weight)
        return Cost(flops=flops) + super().cost(sizes, *operands)

    def reference(self, x: Array, weight: Array, targets: Indices) -> tuple[Array, Array]:
        logits = self.scale * (x @ weight.T)
        if self.softcap is not None:
            logits = self.softcap * np.tanh(logits / self.softcap)
        largest = logits.max(-1, keepdims=True)
        lse = (largest + np.log(np.exp(logits - largest).sum(-1, keepdims=True)))[..., 0]
        counts = targets != IGNORED
        index = np.where(counts, targets, 0)[..., None]
        picked = np.take_along_axis(logits, index, -1)[..., 0]
        return np.where(counts, lse - picked, 0.0), lse
