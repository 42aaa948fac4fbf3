"""Rows normed and projected, and what attention needs of them appended: two steps in one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ..ir.cost import Cost, Sizes
from ..ir.dims import Dim, product, total
from ..ir.op import Array, Op, require
from ..ir.types import TensorType
from .append import AppendHeads, AppendLatent, AppendQuantizedLatent
from .norm_linear import AddRmsNormLinear, RmsNormLinear

Shapes = tuple[tuple[Dim, ...], ...]


@dataclass(frozen=True, kw_only=True)
class _Project(Op):
    """`rms_norm_linear`, or `add_rms_norm_linear`, and then an op that appends parts of its rows.

    x [B, T, D], weight [..., D]. `beside` names the operands behind `sin`, of those in `optional`
    and in its order: `residual` [B, T, D] is added to x, and the sum is the first result; `gain`
    [D] is of the norm, `bias` [...] of the product. All other results are those of `append`.
    """

    token_local = False
    stateful = True
    optional: ClassVar[tuple[str, ...]] = ("residual", "gain", "bias")

    row_eps: float
    """That of the norm before the product; `eps` and `offset` are of what is appended."""
    row_offset: float = 0.0
    beside: tuple[str, ...] = ()

    # Of `TensorType`s and of arrays alike: what a subclass says of its parts.

    def shapes(self, given: Mapping[str, Any]) -> Shapes:
        """The shapes of the parts of a row of the product, one behind the other."""
        raise NotImplementedError

    def appended(self, given: Mapping[str, Any], parts: tuple[Any, ...]) -> tuple[Any, ...]:
        """The operands of `append`, of which the product's `parts` are some."""
        raise NotImplementedError

    @property
    def append(self) -> Op:
        """The second of the two steps."""
        raise NotImplementedError

    @property
    def projection(self) -> RmsNormLinear | AddRmsNormLinear:
        """The first of the two steps."""
        kind = AddRmsNormLinear if "residual" in self.beside else RmsNormLinear
        return kind(self.row_eps, self.row_offset)

    def named(self, count: int) -> tuple[str, ...]:
        return (*self.operand_names()[:-1], *self.beside)[:count]

    def given(self, *operands: Any) -> dict[str, Any]:
        """The operands by name; raises `GraphError` where these are not they."""
        names = (*self.operand_names()[:-1], *self.beside)
        known = tuple(name for name in self.optional if name in self.beside)
        may = f"{self.name}: beside the others there may be {', '.join(self.optional)}, so in order"
        require(self.beside == known, f"{may}: not {', '.join(self.beside)}")
        unlike = "bias" in known and "gain" not in known
        require(not unlike, f"{self.name}: a bias without a gain is not to be told from one")
        fits = len(operands) == len(names)
        require(fits, f"{self.name}: {len(operands)} operands for {', '.join(names)}")
        return dict(zip(names, operands, strict=True))

    def steps(self, *operands: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """The types of the operands of both steps."""
        given = self.given(*operands)
        parts = (given["x"].last(*shape) for shape in self.shapes(given))
        return _multiplied(given), self.appended(given, tuple(parts))

    def _infer(self, *operands: TensorType) -> tuple[TensorType, ...]:
        given = self.given(*operands)
        *summed, _ = self.projection.types(*_multiplied(given))
        columns = tuple(product(shape) for shape in self.shapes(given))
        weight = given["weight"]
        fits = product(weight.row[:-1]) == total(columns)
        require(fits, f"{weight} has no rows of {' + '.join(map(str, columns))} columns")
        return *summed, *self.append.types(*self.steps(*operands)[1])

    def initial(self, operand: str) -> str:
        if operand in _Project.optional:
            return self.projection.initial(operand)
        return self.append.initial(operand.removeprefix("latent_"))

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        """All is read once; a sum is written, and what is appended, but not the parts of it."""
        first, second = self.steps(*operands)
        made = self.append.cost(sizes, *second)
        summed = operands[:1] if "residual" in self.beside else ()
        read = sum(map(sizes.bytes, (*operands, *summed))) - sum(map(sizes.bytes, second))
        return made + Cost(self.projection.cost(sizes, *first).flops, read)

    def reference(self, *operands: Array) -> tuple[Array | None, ...]:
        count = len(operands) - len(self.written)
        given, kept = self.given(*operands[:count]), operands[count:]
        made = self.projection.reference(*_multiplied(given))
        *summed, rows = made if isinstance(made, tuple) else (made,)
        shapes, outer = self.shapes(given), rows.shape[:2]
        ends = np.cumsum([int(product(shape)) for shape in shapes])[:-1]
        parts = np.split(rows.reshape(*outer, -1), ends, axis=-1)
        pairs = zip(parts, shapes, strict=True)
        whole = tuple(part.reshape(*outer, *map(int, shape)) for part, shape in pairs)
        return *summed, *self.append.reference(*self.appended(given, whole), *kept)


@dataclass(frozen=True, kw_only=True)
class ProjectHeads(_Project):
    """A product of normed rows, and then `append_heads` of the parts of each.

    weight has H K + G K + G V rows in all: H queries, then G keys, K wide, and G values, V wide.
    Beside the others there may be the gains of the heads' norms, `q_weight` and `k_weight` [K].
    """

    name = "project_heads"
    optional = (*_Project.optional, "q_weight", "k_weight")

    keys: str
    """The cache of the keys."""
    values: str
    heads: Dim
    """H, how many queries a token has; then G, K and V."""
    groups: Dim
    key: Dim
    value: Dim
    interleaved: bool
    eps: float | None = None
    offset: float = 0.0

    @property
    def written(self) -> tuple[str, ...]:
        return self.keys, self.values

    @property
    def append(self) -> AppendHeads:
        return AppendHeads(self.keys, self.values, self.interleaved, self.eps, self.offset)

    def shapes(self, given: Mapping[str, Any]) -> Shapes:
        return (self.heads, self.key), (self.groups, self.key), (self.groups, self.value)

    def appended(self, given: Mapping[str, Any], parts: tuple[Any, ...]) -> tuple[Any, ...]:
        names = "positions", "cos", "sin", "q_weight", "k_weight"
        return *parts, *(given[name] for name in names if name in given)

    def infer(
        self,
        x: TensorType,
        weight: TensorType,
        positions: TensorType,
        cos: TensorType,
        sin: TensorType,
        *beside: TensorType,
    ) -> tuple[TensorType, ...]:
        return self._infer(x, weight, positions, cos, sin, *beside)


@dataclass(frozen=True, kw_only=True)
class ProjectLatent(_Project):
    """A product of normed rows, and then `append_latent` of the parts of each; or, with a `block`,
    `append_quantized_latent`, whose three caches `caches` are.

    weight has H (N + R) + L + R rows in all: H queries, of each N columns that are multiplied with
    head_weight [H, N, L] and R that are turned, then a latent of L and a key of R
    (arXiv:2405.04434, section 2.1.2). Where queries have a latent of their own, x is that, and
    `latent` [B, T, L] and `k_rope` [B, T, R] are beside the others: weight has the queries' rows
    alone. `latent_gain` [L] is that of the latent's norm.
    """

    name = "project_latent"
    optional = (*_Project.optional, "latent", "k_rope", "latent_gain")

    caches: tuple[str, ...]
    interleaved: bool
    eps: float
    offset: float = 0.0
    block: Dim | None = None

    @property
    def written(self) -> tuple[str, ...]:
        return self.caches

    @property
    def apart(self) -> bool:
        """Whether latents and their keys are no columns of the product."""
        return "latent" in self.beside

    @property
    def append(self) -> AppendLatent | AppendQuantizedLatent:
        wanted = 1 if self.block is None else 3
        require(len(self.caches) == wanted, f"{self.name}: {len(self.caches)} caches, not {wanted}")
        options: dict[str, Any] = {"interleaved": self.interleaved, "eps": self.eps}
        options["offset"] = self.offset
        if self.block is None:
            return AppendLatent(self.caches[0], **options)
        rest, numbers, scales = self.caches
        return AppendQuantizedLatent(rest, numbers, scales, block=self.block, **options)

    def shapes(self, given: Mapping[str, Any]) -> Shapes:
        both = ("k_rope" in self.beside) == self.apart
        require(both, f"{self.name}: a latent and its key are both beside the others, or neither")
        sizes, turned = _axes(given["head_weight"]), _axes(given["cos"])[-1] * 2
        require(len(sizes) == 3, f"{given['head_weight']} is not [heads, nope, latent]")
        heads, nope, latent = sizes
        row = () if self.apart else ((latent,), (turned,))
        return (heads, nope + turned), *row

    def appended(self, given: Mapping[str, Any], parts: tuple[Any, ...]) -> tuple[Any, ...]:
        q, *row = parts
        _, nope, _ = _axes(given["head_weight"])
        turned = _axes(given["cos"])[-1] * 2
        if isinstance(q, TensorType):
            queries = q.last(nope), q.last(turned)
        else:
            queries = q[..., : int(nope)], q[..., int(nope) :]
        row = row or [given["latent"], given["k_rope"]]
        names = "positions", "cos", "sin", "latent_gain"
        others = (given[name] for name in names if name in given)
        return *queries, given["head_weight"], *row, *others

    def infer(
        self,
        x: TensorType,
        weight: TensorType,
        head_weight: TensorType,
        positions: TensorType,
        cos: TensorType,
        sin: TensorType,
        *beside: TensorType,
    ) -> tuple[TensorType, ...]:
        return self._infer(x, weight, head_weight, positions, cos, sin, *beside)


def _multiplied(given: Mapping[str, Any]) -> tuple[Any, ...]:
    """The operands of the product of normed rows."""
    names = "x", "residual", "weight", "gain", "bias"
    return tuple(given[name] for name in names if name in given)


def _axes(x: Any) -> tuple[Dim, ...]:
    """The axes of a type that have a size, or all of an array."""
    return x.row if isinstance(x, TensorType) else tuple(map(Dim.of, x.shape))
