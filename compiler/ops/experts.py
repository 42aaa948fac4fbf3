"""Experts: gated feed-forwards of which each token passes through the few that it chose."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..ir.cost import Cost, Sizes
from ..ir.dims import TWO, ZERO, Dim
from ..ir.op import Array, Indices, Op, require
from ..ir.types import TensorType
from .elementwise import ACTIVATIONS


@dataclass(frozen=True)
class ExpertsOp(Op):
    """What ops have in common that sum the experts of each token, times their weights.

    The middle of an expert is `activation(alpha * gate) / alpha * (up + up_offset)`, where a
    `clamp` c first bounds the gate from above by c and up on both sides (arXiv:2508.10925). The
    last `always` of a token's experts are the last ones there are, whatever `index` says.
    """

    activation: str
    always: Dim = ZERO
    alpha: float = 1.0
    clamp: float | None = None
    up_offset: float = 0.0

    matrices: ClassVar[int]
    """How many operands behind x, index and weight are matrices; what follows them are biases."""

    @property
    def plain(self) -> bool:
        """Whether the middle is `activation(gate) * up` and no more."""
        return self.alpha == 1 and self.clamp is None and self.up_offset == 0

    def down(self, operands: tuple[TensorType, ...]) -> TensorType:
        """The type [E, D, F] of the last matrices, among those of all operands."""
        return operands[2 + self.matrices]

    def initial(self, operand: str) -> str:
        return "zeros" if operand.endswith("bias") else "normal"

    def share(self, rows: int, *operands: TensorType) -> tuple[float, ...]:
        """The part of the experts that some row is expected to choose, were all equally likely but
        those that every row uses."""
        _, index, _, *weights = operands
        count = weights[0].row[0].size
        experts, top_k = count - self.always.size, index.row[0].size - self.always.size
        chosen = experts * (1 - (1 - top_k / experts) ** rows)
        return (*(1.0,) * 3, *((chosen + self.always.size) / count,) * len(weights))

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        """Each row passes through the gate, up and down of the experts that it chose."""
        _, width, inner = self.down(operands).row
        products = 2 * sizes.count(operands[1]) * 3 * width.size * inner.size
        return super().cost(sizes, *operands) + Cost(flops=products)

    def check(
        self,
        x: TensorType,
        index: TensorType,
        weight: TensorType,
        gate: TensorType,
        down: TensorType,
        biases: tuple[TensorType | None, ...],
    ) -> TensorType:
        """The type of the result; the gate is [E, F, D], and its bias the first."""
        require(self.activation in ACTIVATIONS, f"there is no activation {self.activation}")
        require(self.alpha > 0, f"alpha {self.alpha} is not above 0")
        require(self.clamp is None or self.clamp > 0, f"the clamp {self.clamp} is not above 0")
        require(len(gate.row) == 3, f"the experts' gate is {gate}, not [experts, width, hidden]")
        count, inner, width = gate.row
        require(x.shape[-1] == width, f"the experts' gate {gate} does not fit {x}")
        require(down.row == (count, width, inner), f"the experts' down {down} does not fit {gate}")
        chosen = index.shape == weight.shape and index.shape[:-1] == x.shape[:-1]
        require(chosen, f"index {index} and weight {weight} do not fit {x}")
        routed = [axis - self.always for axis in (count, *index.row[-1:])]
        some = all(axis.size > 0 and axis.probe > 0 for axis in routed)
        require(some, f"{self.always} experts that are always used leave none of {count} to choose")
        given = [bias for bias in biases if bias is not None]
        require(len(given) in (0, len(biases)), "some of an expert's products have a bias, not all")
        if given:
            *made, last = (bias.row for bias in given)
            fit = last == (count, width) and all(row == (count, inner) for row in made)
            require(fit, f"biases {', '.join(map(str, given))} do not fit {gate} and {down}")
        return x

    def middle(self, gate: Array, up: Array) -> Array:
        """What an expert's gate makes of its other factor."""
        if self.clamp is not None:
            gate, up = np.minimum(gate, self.clamp), np.clip(up, -self.clamp, self.clamp)
        lifted = ACTIVATIONS[self.activation](self.alpha * gate) / self.alpha
        return lifted * (up + self.up_offset)


@dataclass(frozen=True)
class Experts(ExpertsOp):
    """The weighted sum of each token's gated MLPs (arXiv:2002.05202; arXiv:2401.06066, eq. 3).

    x [B, T, D], index and weight [B, T, K], gate and up [E, F, D], down [E, D, F] -> [B, T, D];
    their biases, if there are any, [E, F], [E, F] and [E, D].
    """

    name = "experts"
    multiplied = ("gate", "up")
    matrices = 3

    def infer(
        self,
        x: TensorType,
        index: TensorType,
        weight: TensorType,
        gate: TensorType,
        up: TensorType,
        down: TensorType,
        gate_bias: TensorType | None = None,
        up_bias: TensorType | None = None,
        down_bias: TensorType | None = None,
    ) -> TensorType:
        require(gate == up, f"gate is {gate}, up {up}")
        return self.check(x, index, weight, gate, down, (gate_bias, up_bias, down_bias))

    def reference(
        self,
        x: Array,
        index: Indices,
        weight: Array,
        gate: Array,
        up: Array,
        down: Array,
        gate_bias: Array | None = None,
        up_bias: Array | None = None,
        down_bias: Array | None = None,
    ) -> Array:
        y, always = np.zeros_like(x), int(self.always)
        last = np.broadcast_to(np.arange(len(gate) - always, len(gate)), (*x.shape[:-1], always))
        index = np.concatenate([index[..., : index.shape[-1] - always], last], axis=-1)
        for e in range(len(gate)):
            share = (weight * (index == e)).sum(-1, keepdims=True)
            lifted, other = x @ gate[e].T, x @ up[e].T
            if gate_bias is not None and up_bias is not None:
                lifted, other = lifted + gate_bias[e], other + up_bias[e]
            made = self.middle(lifted, other) @ down[e].T
            y = y + share * (made if down_bias is None else made + down_bias[e])
        return y


@dataclass(frozen=True)
class FusedExperts(ExpertsOp):
    """`experts` with gate and up in one weight [E, 2, F, D], the gate first, as are their biases,
    [E, 2, F]."""

    name = "fused_experts"
    multiplied = ("gate_up",)
    matrices = 2

    def infer(
        self,
        x: TensorType,
        index: TensorType,
        weight: TensorType,
        gate_up: TensorType,
        down: TensorType,
        gate_up_bias: TensorType | None = None,
        down_bias: TensorType | None = None,
    ) -> TensorType:
        count, parts, inner, width = gate_up.row
        require(parts == TWO, f"gate and up are {gate_up}, not [experts, 2, width, hidden]")
        gate = TensorType(gate_up.dtype, (count, inner, width))
        bias = gate_up_bias
        if bias is not None:
            fits = bias.row == (count, TWO, inner)
            require(fits, f"the bias of gate and up is {bias}, not [experts, 2, width]")
            bias = TensorType(bias.dtype, (count, inner))
        return self.check(x, index, weight, gate, down, (bias, down_bias))

    def reference(
        self,
        x: Array,
        index: Indices,
        weight: Array,
        gate_up: Array,
        down: Array,
        gate_up_bias: Array | None = None,
        down_bias: Array | None = None,
    ) -> Array:
        apart = Experts(**self.attributes())
        biases: tuple[Array, ...] = ()
        if gate_up_bias is not None:
            biases = (gate_up_bias[:, 0], gate_up_bias[:, 1], down_bias)
        return apart.reference(x, index, weight, gate_up[:, 0], gate_up[:, 1], down, *biases)
