"""Mixture of experts: the choice of experts for each token, and the experts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from ..ir.cost import Cost, Sizes
from ..ir.dims import ONE, TWO, ZERO, Dim
from ..ir.op import Array, Indices, Op, require
from ..ir.types import TensorType
from .elementwise import ACTIVATIONS, sigmoid


def _softmax(x: Array) -> Array:
    weights = np.exp(x - x.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True)


def _sqrtsoftplus(x: Array) -> Array:
    """`sqrt(log(1 + exp(x)))`, in a form that overflows nowhere."""
    return np.sqrt(np.maximum(x, 0.0) + np.log1p(np.exp(-np.abs(x))))


SCORES: Mapping[str, Callable[[Array], Array]] = {
    "softmax": _softmax,
    "sigmoid": sigmoid,
    "sqrtsoftplus": _sqrtsoftplus,
}


@dataclass(frozen=True)
class Routing(Op):
    """The choice of experts: what ops have in common that take logits, or that make them first.

    Experts are chosen by score plus `bias` (arXiv:2408.15664), within the `top_groups` groups
    whose best score ("max", arXiv:2405.04434 section 2.2.2) or two best scores ("top2_sum",
    arXiv:2412.19437 section 2.1.2) are highest; they are weighted by score alone, divided by their
    sum where `normalize`, times `scale`. Behind these `top_k` come `always` experts more, with the
    numbers E, E + 1, ..., which every token uses with the weight `always_weight`.
    """

    score: str
    top_k: Dim
    groups: Dim = ONE
    top_groups: Dim = ONE
    group_score: str = "max"
    normalize: bool = False
    scale: float = 1.0
    always: Dim = ZERO
    always_weight: float = 1.0

    experts: ClassVar[Callable[..., Dim]]
    """How many experts there are to choose from, by the types of the operands."""

    def initial(self, operand: str) -> str:
        return "zeros" if operand == "bias" else "normal"

    def trained(self, operand: str) -> bool:
        """A bias decides which experts are chosen: a step, which has no gradient."""
        return operand != "bias"

    def chosen(self, logits: TensorType, bias: TensorType | None) -> tuple[TensorType, TensorType]:
        """The types of index and weight, from those of logits and bias."""
        require(self.score in SCORES, f"{self.score} is no score; there are {', '.join(SCORES)}")
        require(self.group_score in ("max", "top2_sum"), f"{self.group_score} is no group score")
        experts = logits.shape[-1]
        require(isinstance(experts, Dim), f"{logits} has no experts")
        if isinstance(experts, Dim):
            experts // self.groups  # raises where it leaves a remainder
            enough = experts.size >= self.top_k.size and experts.probe >= self.top_k.probe
            require(enough, f"top_k {self.top_k} exceeds the experts {experts}")
        require(logits == logits.wide, f"logits are {logits}; widen them")
        require(bias is None or bias.shape == logits.shape[-1:], f"bias is {bias}")
        chosen = logits.last(self.top_k + self.always)
        return TensorType("int64", chosen.shape), chosen

    def choose(self, logits: Array, bias: Array | None) -> tuple[Indices, Array]:
        scores = SCORES[self.score](logits)
        choice = scores if bias is None else scores + bias
        groups = int(self.groups)
        if groups > 1:
            grouped = choice.reshape(*choice.shape[:-1], groups, -1)
            best = np.sort(grouped, axis=-1)[..., ::-1]
            worth = best[..., 0] if self.group_score == "max" else best[..., :2].sum(-1)
            kept = np.zeros(worth.shape, bool)
            order = np.argsort(-worth, axis=-1, kind="stable")[..., : int(self.top_groups)]
            np.put_along_axis(kept, order, True, axis=-1)
            choice = np.where(kept[..., None], grouped, -np.inf).reshape(choice.shape)
        index = np.argsort(-choice, axis=-1, kind="stable")[..., : int(self.top_k)]
        weight = np.take_along_axis(scores, index, axis=-1)
        if self.normalize:
            weight = weight / (weight.sum(-1, keepdims=True) + 1e-20)
        count = logits.shape[-1]
        further = np.arange(count, count + int(self.always))
        return (
            _beside(index, further),
            _beside(weight * self.scale, np.full(further.shape, self.always_weight)),
        )


@dataclass(frozen=True)
class Route(Routing):
    """Each token's experts [B, T, K] and their weights [B, T, K], from logits [B, T, E]."""

    name = "route"

    def infer(
        self, logits: TensorType, bias: TensorType | None = None
    ) -> tuple[TensorType, TensorType]:
        return self.chosen(logits, bias)

    def reference(self, logits: Array, bias: Array | None = None) -> tuple[Indices, Array]:
        return self.choose(logits, bias)

    def experts(self, logits: TensorType, *_: TensorType) -> Dim:
        (count,) = logits.row
        return count


@dataclass(frozen=True)
class Router(Routing):
    """`route` from x [B, T, D] and the router's weight [E, D], whose product it takes widened."""

    name = "router"
    multiplied = ("weight",)

    def infer(
        self, x: TensorType, weight: TensorType, bias: TensorType | None = None
    ) -> tuple[TensorType, TensorType]:
        fits = len(weight.row) == 2 and weight.row[1:] == x.shape[-1:]
        fits = fits and weight.wide.dtype == x.wide.dtype
        require(fits, f"the router {weight} does not fit {x}")
        return self.chosen(x.wide.last(weight.row[0]), bias)

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        x, weight, *_ = operands
        product = Cost(flops=2 * sizes.count(x) * weight.row[0].size)
        return super().cost(sizes, *operands) + product

    def reference(
        self, x: Array, weight: Array, bias: Array | None = None
    ) -> tuple[Indices, Array]:
        return self.choose(x @ weight.T, bias)

    def experts(self, x: TensorType, weight: TensorType, *_: TensorType) -> Dim:
        return weight.row[0]


@dataclass(frozen=True)
class Experts(Op):
    """The weighted sum of each token's gated MLPs (arXiv:2002.05202; arXiv:2401.06066, eq. 3).

    x [B, T, D], index and weight [B, T, K], gate and up [E, F, D], down [E, D, F] -> [B, T, D].
    The last `always` of a token's experts are the last ones there are, whatever `index` says.
    """

    name = "experts"
    multiplied = ("gate", "up")

    activation: str
    always: Dim = ZERO

    def infer(
        self,
        x: TensorType,
        index: TensorType,
        weight: TensorType,
        gate: TensorType,
        up: TensorType,
        down: TensorType,
    ) -> TensorType:
        require(gate == up, f"gate is {gate}, up {up}")
        return _infer_experts(self, x, index, weight, gate, down)

    def share(self, rows: int, *operands: TensorType) -> tuple[float, ...]:
        return _share_of_experts(self.always, rows, operands)

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        return super().cost(sizes, *operands) + _products(sizes, operands)

    def reference(
        self, x: Array, index: Indices, weight: Array, gate: Array, up: Array, down: Array
    ) -> Array:
        y, always = np.zeros_like(x), int(self.always)
        last = np.broadcast_to(np.arange(len(gate) - always, len(gate)), (*x.shape[:-1], always))
        index = np.concatenate([index[..., : index.shape[-1] - always], last], axis=-1)
        for e in range(len(gate)):
            share = (weight * (index == e)).sum(-1, keepdims=True)
            hidden = ACTIVATIONS[self.activation](x @ gate[e].T) * (x @ up[e].T)
            y = y + share * (hidden @ down[e].T)
        return y


@dataclass(frozen=True)
class FusedExperts(Op):
    """`experts` with gate and up in one weight [E, 2, F, D], the gate first."""

    name = "fused_experts"
    multiplied = ("gate_up",)

    activation: str
    always: Dim = ZERO

    def infer(
        self,
        x: TensorType,
        index: TensorType,
        weight: TensorType,
        gate_up: TensorType,
        down: TensorType,
    ) -> TensorType:
        count, parts, inner, width = gate_up.row
        require(parts == TWO, f"gate and up are {gate_up}, not [experts, 2, width, hidden]")
        gate = TensorType(gate_up.dtype, (count, inner, width))
        return _infer_experts(self, x, index, weight, gate, down)

    def share(self, rows: int, *operands: TensorType) -> tuple[float, ...]:
        return _share_of_experts(self.always, rows, operands)

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        return super().cost(sizes, *operands) + _products(sizes, operands)

    def reference(
        self, x: Array, index: Indices, weight: Array, gate_up: Array, down: Array
    ) -> Array:
        gate, up = gate_up[:, 0], gate_up[:, 1]
        return Experts(self.activation, self.always).reference(x, index, weight, gate, up, down)


def _share_of_experts(
    always: Dim, rows: int, operands: tuple[TensorType, ...]
) -> tuple[float, ...]:
    """The part of the experts that some row is expected to choose, were all equally likely but
    those that every row uses."""
    _, index, _, *weights = operands
    count = weights[-1].row[0].size
    experts, top_k = count - always.size, index.row[0].size - always.size
    chosen = experts * (1 - (1 - top_k / experts) ** rows)
    return (*(1.0,) * 3, *((chosen + always.size) / count,) * len(weights))


def _products(sizes: Sizes, operands: tuple[TensorType, ...]) -> Cost:
    """Each row passes through the gate, up and down of the experts that it chose."""
    _, index, _, *_, down = operands
    _, width, inner = down.row
    return Cost(flops=2 * sizes.count(index) * 3 * width.size * inner.size)


def _infer_experts(
    op: Experts | FusedExperts,
    x: TensorType,
    index: TensorType,
    weight: TensorType,
    gate: TensorType,
    down: TensorType,
) -> TensorType:
    require(op.activation in ACTIVATIONS, f"there is no activation {op.activation}")
    require(len(gate.row) == 3, f"the experts' gate is {gate}, not [experts, width, hidden]")
    count, inner, width = gate.row
    require(x.shape[-1] == width, f"the experts' gate {gate} does not fit {x}")
    require(down.row == (count, width, inner), f"the experts' down {down} does not fit {gate}")
    chosen = index.shape == weight.shape and index.shape[:-1] == x.shape[:-1]
    require(chosen, f"index {index} and weight {weight} do not fit {x}")
    routed = [axis - op.always for axis in (count, *index.row[-1:])]
    some = all(axis.size > 0 and axis.probe > 0 for axis in routed)
    require(some, f"{op.always} experts that are always used leave none of {count} to choose")
    return x


def _beside(x: Array, further: Array) -> Array:
    """x [B, T, K], and behind each row the same further entries."""
    rows = np.broadcast_to(further, (*x.shape[:-1], len(further)))
    return np.concatenate([x, rows], axis=-1)
