"""Mixture of experts: the choice of experts for each token."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from ..ir.cost import Cost, Sizes
from ..ir.dims import ONE, ZERO, Dim
from ..ir.op import Array, Indices, Op, require
from ..ir.types import TensorType
from .elementwise import sigmoid
from .norm import AddRmsNorm


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
    """`route` from x [B, T, D] and the router's weight [E, D], whose product it takes widened.

    A bias [E] is added for the choice alone, as that of `route`, or to the logits.
    """

    name = "router"
    multiplied: ClassVar[tuple[str, ...]] = ("weight",)

    bias_of: str = "choice"
    """What a bias is added to: "choice" or "logits"."""

    def trained(self, operand: str) -> bool:
        return super().trained(operand) or self.bias_of == "logits"

    def infer(
        self, x: TensorType, weight: TensorType, bias: TensorType | None = None
    ) -> tuple[TensorType, TensorType]:
        fits = len(weight.row) == 2 and weight.row[1:] == x.shape[-1:]
        fits = fits and weight.wide.dtype == x.wide.dtype
        require(fits, f"the router {weight} does not fit {x}")
        require(self.bias_of in ("choice", "logits"), f"a bias of {self.bias_of} is none")
        return self.chosen(x.wide.last(weight.row[0]), bias)

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        product = Cost(flops=2 * sizes.count(operands[0]) * self.experts(*operands).size)
        return super().cost(sizes, *operands) + product

    def reference(
        self, x: Array, weight: Array, bias: Array | None = None
    ) -> tuple[Indices, Array]:
        logits = x @ weight.T
        if bias is not None and self.bias_of == "logits":
            logits, bias = logits + bias, None
        return self.choose(logits, bias)

    def experts(self, x: TensorType, weight: TensorType, *_: TensorType) -> Dim:
        return weight.row[0]


@dataclass(frozen=True)
class NormRouter(Router):
    """`add_rms_norm`, and the `router` of what is normed: the sum, that, an index and weights."""

    name = "norm_router"
    multiplied = ()

    eps: float = field(kw_only=True)
    offset: float = field(default=0.0, kw_only=True)

    def initial(self, operand: str) -> str:
        return self._norm.initial(operand) if operand == "gain" else super().initial(operand)

    def infer(  # type: ignore[override]
        self,
        x: TensorType,
        residual: TensorType,
        gain: TensorType,
        weight: TensorType,
        bias: TensorType | None = None,
    ) -> tuple[TensorType, ...]:
        total, normed = self._norm.infer(x, residual, gain)
        return total, normed, *super().infer(normed, weight, bias)

    def reference(  # type: ignore[override]
        self,
        x: Array,
        residual: Array,
        gain: Array,
        weight: Array,
        bias: Array | None = None,
    ) -> tuple[Array, Array, Indices, Array]:
        total, normed = self._norm.reference(x, residual, gain)
        return total, normed, *super().reference(normed, weight, bias)

    def experts(self, *operands: TensorType) -> Dim:
        return operands[3].row[0]

    @property
    def _norm(self) -> AddRmsNorm:
        return AddRmsNorm(self.eps, self.offset)


def _beside(x: Array, further: Array) -> Array:
    """x [B, T, K], and behind each row the same further entries."""
    rows = np.broadcast_to(further, (*x.shape[:-1], len(further)))
    return np.concatenate([x, rows], axis=-1)
