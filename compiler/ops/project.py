"""Rows normed and projected, and what attention needs of them appended: two steps in one."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir.cost import Cost, Sizes
from ..ir.dims import Dim, product, total
from ..ir.op import Array, Indices, Op, require
from ..ir.types import TensorType
from .append import AppendHeads, AppendLatent
from .norm_linear import AddRmsNormLinear


@dataclass(frozen=True)
class ProjectHeads(Op):
    """`add_rms_norm_linear`, and then `append_heads` of the parts of each of its rows.

    x and residual [B, T, D], weight [..., D] of H K + G K + G V rows in all: H queries, then G
    keys, K wide, and G values, V wide. The results are x + residual, and those of `append_heads`.
    """

    name = "project_heads"
    token_local = False
    stateful = True

    keys: str
    """The cache of the keys."""
    values: str
    heads: Dim
    """H, how many queries a token has; then G, K and V."""
    groups: Dim
    key: Dim
    value: Dim
    interleaved: bool
    row_eps: float
    """That of the norm before the product; `eps` and `offset` are of the heads' norms."""
    row_offset: float = 0.0
    eps: float | None = None
    offset: float = 0.0

    @property
    def written(self) -> tuple[str, ...]:
        return self.keys, self.values

    @property
    def projection(self) -> AddRmsNormLinear:
        """The first of the two steps."""
        return AddRmsNormLinear(self.row_eps, self.row_offset)

    @property
    def append(self) -> AppendHeads:
        """The second of the two steps."""
        return AppendHeads(self.keys, self.values, self.interleaved, self.eps, self.offset)

    @property
    def columns(self) -> tuple[Dim, ...]:
        """How wide the parts of a row of the product are: queries, keys and values."""
        return self.heads * self.key, self.groups * self.key, self.groups * self.value

    def parts(self, *operands: TensorType) -> tuple[TensorType, ...]:
        """What `append` is given: queries, keys and values, and what turns and norms them."""
        shapes = (self.heads, self.key), (self.groups, self.key), (self.groups, self.value)
        return *(operands[0].last(*shape) for shape in shapes), *operands[4:]

    def infer(
        self,
        x: TensorType,
        residual: TensorType,
        weight: TensorType,
        gain: TensorType,
        positions: TensorType,
        cos: TensorType,
        sin: TensorType,
        q_weight: TensorType | None = None,
        k_weight: TensorType | None = None,
    ) -> tuple[TensorType, ...]:
        summed, _ = self.projection.infer(x, residual, weight, gain)
        _require_parts(weight, self.columns)
        (q, k, v), gains = self.parts(x), (q_weight, k_weight)
        return summed, *self.append.infer(q, k, v, positions, cos, sin, *gains)

    def initial(self, operand: str) -> str:
        return (self.projection if operand == "gain" else self.append).initial(operand)

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        """All is read once; a sum, queries, keys and values are written for each token."""
        x, positions = operands[0], operands[4]
        made = sum(map(sizes.bytes, (x, *self.parts(x), positions)))
        flops = self.projection.cost(sizes, *operands[:4]).flops
        return Cost(flops, sum(map(sizes.bytes, operands)) + made)

    def reference(
        self,
        x: Array,
        residual: Array,
        weight: Array,
        gain: Array,
        positions: Indices,
        cos: Array,
        sin: Array,
        *rest: Array,
    ) -> tuple[Array | None, ...]:
        summed, rows = self.projection.reference(x, residual, weight, gain)
        q, k, v = _split(rows, self.columns)
        q, k = (part.reshape(*part.shape[:2], -1, int(self.key)) for part in (q, k))
        v = v.reshape(*v.shape[:2], -1, int(self.value))
        return summed, *self.append.reference(q, k, v, positions, cos, sin, *rest)


@dataclass(frozen=True)
class ProjectLatent(Op):
    """`add_rms_norm_linear`, and then `append_latent` of the parts of each of its rows.

    x and residual [B, T, D], weight [..., D] of H (N + R) + L + R rows in all: H queries, of each N
    columns that are multiplied with head_weight [H, N, L] and R that are turned, then a latent of L
    and a key of R (arXiv:2405.04434, section 2.1.2). The results are x + residual, and those of
    `append_latent`.
    """

    name = "project_latent"
    token_local = False
    stateful = True

    cache: str
    interleaved: bool
    row_eps: float
    """That of the norm before the product; `eps` and `offset` are of the latent's norm."""
    eps: float
    row_offset: float = 0.0
    offset: float = 0.0

    @property
    def projection(self) -> AddRmsNormLinear:
        """The first of the two steps."""
        return AddRmsNormLinear(self.row_eps, self.row_offset)

    @property
    def append(self) -> AppendLatent:
        """The second of the two steps."""
        return AppendLatent(self.cache, self.interleaved, self.eps, self.offset)

    def parts(self, *operands: TensorType) -> tuple[TensorType, ...]:
        """What `append` is given: queries in two parts and the weight that one meets, a latent
        and a key, and what turns and norms them."""
        x, _, _, _, head_weight, _, cos, *_ = operands
        heads, nope, latent = head_weight.row
        turned = cos.row[0] * 2
        q_nope, q_rope = x.last(heads, nope), x.last(heads, turned)
        return q_nope, q_rope, head_weight, x.last(latent), x.last(turned), *operands[5:]

    def infer(
        self,
        x: TensorType,
        residual: TensorType,
        weight: TensorType,
        gain: TensorType,
        head_weight: TensorType,
        positions: TensorType,
        cos: TensorType,
        sin: TensorType,
        latent_gain: TensorType,
    ) -> tuple[TensorType, ...]:
        summed, _ = self.projection.infer(x, residual, weight, gain)
        require(len(head_weight.row) == 3, f"{head_weight} is not [heads, nope, latent]")
        given = x, residual, weight, gain, head_weight, positions, cos, sin, latent_gain
        q_nope, q_rope, _, latent, key, *others = self.parts(*given)
        parts = q_nope, q_rope, latent, key
        _require_parts(weight, tuple(product(part.row) for part in parts))
        queries = q_nope, q_rope, head_weight
        return summed, *self.append.infer(*queries, latent, key, *others)

    def initial(self, operand: str) -> str:
        if operand == "latent_gain":
            return self.append.initial("gain")
        return self.projection.initial(operand)

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        """Two products, and all read once; a sum, a query and a row are written for each token."""
        x, _, _, _, head_weight, positions, *_ = operands
        q_nope, q_rope, _, latent, key, *_ = self.parts(*operands)
        written = x, q_nope.last(head_weight.row[-1]), q_rope, latent, key, positions
        flops = self.projection.cost(sizes, *operands[:4]).flops
        flops += 2 * sizes.rows * sizes.count(head_weight)
        return Cost(flops, sum(map(sizes.bytes, (*operands, *written))))

    def reference(
        self,
        x: Array,
        residual: Array,
        weight: Array,
        gain: Array,
        head_weight: Array,
        positions: Indices,
        cos: Array,
        sin: Array,
        *rest: Array,
    ) -> tuple[Array | None, ...]:
        summed, rows = self.projection.reference(x, residual, weight, gain)
        heads, nope, latent = head_weight.shape
        turned = 2 * cos.shape[-1]
        q, c, k_rope = _split(rows, (heads * (nope + turned), latent, turned))
        q = q.reshape(*q.shape[:2], heads, -1)
        parts = q[..., :nope], q[..., nope:], head_weight, c, k_rope
        return summed, *self.append.reference(*parts, positions, cos, sin, *rest)


def _require_parts(weight: TensorType, columns: tuple[Dim, ...]) -> None:
    fits = product(weight.row[:-1]) == total(columns)
    require(fits, f"{weight} has no rows of {' + '.join(map(str, columns))} columns")


def _split(rows: Array, columns: tuple[Dim | int, ...]) -> list[Array]:
    """Parts of so many columns of rows [B, T, ...]."""
    flat = rows.reshape(*rows.shape[:2], -1)
    return np.split(flat, np.cumsum([int(n) for n in columns])[:-1], axis=-1)
