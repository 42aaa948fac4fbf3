"""What a call leaves in its caches, made and kept in one step: norms and rotations on the way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..ir.cost import Cost, Sizes
from ..ir.dims import Dim
from ..ir.op import Array, Indices, Op, require
from ..ir.quantized import BLOCK
from ..ir.types import TensorType
from .attention import Cached
from .linear import Einsum
from .norm import RmsNorm
from .position import Rope
from .quantized_rows import QuantizeRows


@dataclass(frozen=True)
class AppendHeads(Op):
    """Queries and keys normed, where `eps` says so, and turned; keys and values `cached`.

    q [B, T, H, K], k [B, T, G, K] and v [B, T, G, V]; the results are queries [B, T, H, K] and the
    context's keys [B, S, G, K] and values [B, S, G, V]. `rms_norm` is that of each head, `rope`
    turns its first 2 P columns by cos and sin [B, T, P].
    """

    name = "append_heads"
    token_local = False
    stateful = True

    keys: str
    """The cache of the keys."""
    values: str
    interleaved: bool
    eps: float | None = None
    offset: float = 0.0

    @property
    def written(self) -> tuple[str, ...]:
        return self.keys, self.values

    def infer(
        self,
        q: TensorType,
        k: TensorType,
        v: TensorType,
        positions: TensorType,
        cos: TensorType,
        sin: TensorType,
        q_weight: TensorType | None = None,
        k_weight: TensorType | None = None,
    ) -> tuple[TensorType, TensorType, TensorType]:
        rows = ((x.shape[:2], len(x.row)) for x in (q, k, v))
        fits = all(found == (positions.shape, 2) for found in rows)
        fits = fits and q.row[1] == k.row[1] and k.row[0] == v.row[0]
        require(fits, f"keys {k} and values {v} do not fit queries {q}")
        _pairs(k.row[1], cos, sin, positions)
        for weight in (q_weight, k_weight):
            require(weight is None or self.eps is not None, f"{weight} is the gain of no norm")
            require(weight is None or weight.shape == q.row[1:], f"{weight} is no gain of {q}")
        keys, values = (Cached("").infer(x, positions) for x in (k, v))
        return q, keys, values

    def initial(self, operand: str) -> str:
        gain = operand in ("q_weight", "k_weight")
        return RmsNorm(0.0, self.offset).initial(operand) if gain else "normal"

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        """All is read once, and as many rows are written; the context costs whoever reads it."""
        q, k, v, positions, *_ = operands
        written = sum(map(sizes.bytes, (q, k, v))) + sizes.bytes(positions)
        return Cost(bytes=sum(map(sizes.bytes, operands)) + written)

    def reference(
        self,
        q: Array,
        k: Array,
        v: Array,
        positions: Indices,
        cos: Array,
        sin: Array,
        *rest: Array,
    ) -> tuple[Array, Array, Array, Array | None, Array | None]:
        *weights, keys, values = rest
        gains = [*weights, None, None][:2]
        q, k = (self._head(x, w, cos, sin) for x, w in zip((q, k), gains, strict=True))
        found, keys = Cached("").reference(k, positions, keys)
        seen, values = Cached("").reference(v, positions, values)
        return q, found, seen, keys, values

    def _head(self, x: Array, weight: Array | None, cos: Array, sin: Array) -> Array:
        if self.eps is not None:
            x = RmsNorm(self.eps, self.offset).reference(x, weight)
        x, turned = x.copy(), 2 * cos.shape[-1]
        x[..., :turned] = Rope(self.interleaved).reference(x[..., :turned], cos, sin)
        return x


@dataclass(frozen=True)
class AppendLatent(Op):
    """A query absorbed, and what all heads share of a token `cached`: a latent beside a key.

    q_nope [B, T, H, N] is multiplied with its head's weight [H, N, L], latent [B, T, L] is normed,
    q_rope [B, T, H, R] and k_rope [B, T, R] are turned by cos and sin [B, T, R / 2]; the results
    are queries [B, T, H, L + R] and the context's rows [B, S, L + R] (arXiv:2405.04434, section
    2.1.2).
    """

    name = "append_latent"
    token_local = False
    stateful = True

    cache: str
    interleaved: bool
    eps: float
    offset: float = 0.0

    def infer(
        self,
        q_nope: TensorType,
        q_rope: TensorType,
        weight: TensorType,
        latent: TensorType,
        k_rope: TensorType,
        positions: TensorType,
        cos: TensorType,
        sin: TensorType,
        gain: TensorType | None = None,
    ) -> tuple[TensorType, TensorType]:
        product = Einsum("bthk,hkd->bthd").infer(q_nope, weight)
        heads = all(x.shape[:2] == positions.shape for x in (q_nope, q_rope, latent, k_rope))
        heads = heads and q_rope.row[:-1] == q_nope.row[:-1] and q_rope.row[-1:] == k_rope.row
        require(
            heads and latent.row == product.row[-1:], f"{latent}, {k_rope} do not fit {product}"
        )
        turned = _pairs(k_rope.row[0], cos, sin, positions)
        require(turned == k_rope.row[0], f"rotations {cos} do not turn all of {k_rope}")
        RmsNorm(self.eps, self.offset).infer(latent, gain)
        width = latent.row[0] + k_rope.row[0]
        return product.last(width), Cached("").infer(latent.last(width), positions)

    def initial(self, operand: str) -> str:
        return RmsNorm(self.eps, self.offset).initial(operand) if operand == "gain" else "normal"

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        """A product, and all read once; a query and a row are written for each token."""
        q_nope, _, weight, latent, k_rope, positions, *_ = operands
        product = Einsum("bthk,hkd->bthd").cost(sizes, q_nope, weight)
        q, _ = self.types(*operands)
        written = sum(map(sizes.bytes, (q, latent, k_rope, positions)))
        return Cost(product.flops, sum(map(sizes.bytes, operands)) + written)

    def reference(
        self,
        q_nope: Array,
        q_rope: Array,
        weight: Array,
        latent: Array,
        k_rope: Array,
        positions: Indices,
        cos: Array,
        sin: Array,
        *rest: Array,
    ) -> tuple[Array, Array, Array | None]:
        *gain, rows = rest
        turn = Rope(self.interleaved).reference
        product = Einsum("bthk,hkd->bthd").reference(q_nope, weight)
        q = np.concatenate((product, turn(q_rope, cos, sin)), -1)
        normed = RmsNorm(self.eps, self.offset).reference(latent, *gain)
        row = np.concatenate((normed, turn(k_rope, cos, sin)), -1)
        found, rows = Cached("").reference(row, positions, rows)
        return q, found, rows


@dataclass(frozen=True)
class AppendQuantizedLatent(Op):
    """`append_latent` whose latent is `quantize_rows`, and `cached` as that: in three caches.

    Operands are those of `append_latent`; the results are queries [B, T, H, L + R], and of the
    context the keys [B, S, R] as they are, numbers [B, S, L] in float8, and their scales
    [B, S, L / block].
    """

    name = "append_quantized_latent"
    token_local = False
    stateful = True

    rest: str
    """The cache of the keys: before the others, since its dtype is the model's."""
    numbers: str
    scales: str
    interleaved: bool
    eps: float
    offset: float = 0.0
    block: Dim = BLOCK

    @property
    def written(self) -> tuple[str, ...]:
        return self.rest, self.numbers, self.scales

    def infer(
        self,
        q_nope: TensorType,
        q_rope: TensorType,
        weight: TensorType,
        latent: TensorType,
        k_rope: TensorType,
        positions: TensorType,
        cos: TensorType,
        sin: TensorType,
        gain: TensorType | None = None,
    ) -> tuple[TensorType, ...]:
        shared = q_nope, q_rope, weight, latent, k_rope, positions, cos, sin, gain
        q, _ = self._wide.infer(*shared)
        numbers, scales = QuantizeRows(self.block).infer(latent)
        rows = (Cached("").infer(row, positions) for row in (k_rope, numbers, scales))
        return q, *rows

    def initial(self, operand: str) -> str:
        return self._wide.initial(operand)

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        """As `append_latent`, but that numbers and scales are written."""
        latent = operands[3]
        written = sum(map(sizes.bytes, QuantizeRows(self.block).infer(latent)))
        return self._wide.cost(sizes, *operands) + Cost(bytes=written - sizes.bytes(latent))

    def reference(
        self,
        q_nope: Array,
        q_rope: Array,
        weight: Array,
        latent: Array,
        k_rope: Array,
        positions: Indices,
        cos: Array,
        sin: Array,
        *rest: Array,
    ) -> tuple[Array | None, ...]:
        *gain, keys, numbers, scales = rest
        shared = q_nope, q_rope, weight, latent, k_rope, positions, cos, sin, *gain
        q, row, _ = self._wide.reference(*shared, None)
        width = latent.shape[-1]
        made = row[..., width:], *QuantizeRows(self.block).reference(row[..., :width])
        kept = [
            Cached("").reference(rows, positions, before)
            for rows, before in zip(made, (keys, numbers, scales), strict=True)
        ]
        return q, *(context for context, _ in kept), *(after for _, after in kept)

    @property
    def _wide(self) -> AppendLatent:
        """The same, but that the latent is kept as it is."""
        return AppendLatent("", self.interleaved, self.eps, self.offset)


def _pairs(width: Dim, cos: TensorType, sin: TensorType, positions: TensorType) -> Dim:
    """How many columns rotations turn; raises `GraphError` unless a head of `width` has them."""
    fits = cos == sin and cos.shape[:2] == positions.shape and len(cos.row) == 1
    require(fits, f"cos is {cos}, sin {sin}")
    turned = cos.row[0] * 2
    fits = turned.size <= width.size and turned.probe <= width.probe
    require(fits, f"rotations {cos} turn more than {width} columns")
    return turned
