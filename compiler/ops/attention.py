"""Attention, and the caches that give it the context."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np

from ..ir.cost import Cost, Sizes
from ..ir.dims import CONTEXT, TOKENS, Dim
from ..ir.op import Array, Indices, Op, require
from ..ir.types import BYTES, TensorType


@dataclass(frozen=True)
class Cached(Op):
    """Write this call's rows to a cache at their positions; yield the rows of the whole context.

    In training there is no cache, and the context is the call itself. Its law, for a token-local f
    of which every per-token operand is cached: f(cached(x), cached(y)) = cached(f(x, y)).
    """

    name = "cached"
    token_local = False
    stateful = True
    keeps = True

    cache: str

    def infer(self, x: TensorType, positions: TensorType) -> TensorType:
        require(
            x.shape[:2] == positions.shape and TOKENS in x.shape, f"{x} holds no rows of tokens"
        )
        return x.over(TOKENS, CONTEXT)

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        """The new rows are copied to the cache; the context costs whoever reads it."""
        x, positions = operands
        return Cost(bytes=2 * sizes.bytes(x) + sizes.bytes(positions))

    def reference(
        self, x: Array, positions: Indices, rows: Array | None
    ) -> tuple[Array, Array | None]:
        if rows is None:
            return x, None
        after = rows.copy()
        np.put_along_axis(
            after, positions.reshape(*positions.shape, *(1,) * (x.ndim - 2)), x, axis=1
        )
        return after, after


@dataclass(frozen=True)
class Attend(Op):
    """Softmax attention (arXiv:1706.03762, equation 1) of queries to the slots up to their own.

    q [B, T, H, K], k [B, S, G, K], v [B, S, G, V] -> [B, T, H, V]; G divides H (arXiv:2305.13245).
    A query at position p sees the slots s <= p, of which with a `window` the last `window` only.
    `softcap` bounds the scores (arXiv:2408.00118), `sinks` [H] are scores of a slot without value
    (arXiv:2309.17453; learnt as in gpt-oss).
    """

    name = "attend"
    token_local = False

    scale: float
    window: Dim | None = None
    softcap: float | None = None
    value_in_key: bool = False
    """Each value is its key's first columns: whoever has read the key has the value."""
    page: Dim | None = None
    """Keys and values are read as they lie in a cache of pages of so many slots, where they do."""

    def infer(
        self,
        q: TensorType,
        k: TensorType,
        v: TensorType,
        positions: TensorType,
        sinks: TensorType | None = None,
    ) -> TensorType:
        require(all(len(t.shape) == 4 for t in (q, k, v)), f"q, k, v are {q}, {k}, {v}; not 4 axes")
        fits = q.shape[-1] == k.shape[-1] and k.shape[:3] == v.shape[:3] and k.shape[1] == CONTEXT
        fits = fits and q.shape[0] == k.shape[0] and q.shape[:2] == positions.shape
        require(fits, f"keys {k} and values {v} do not fit queries {q}")
        narrow = v.row[-1].size <= k.row[-1].size and v.row[-1].probe <= k.row[-1].probe
        require(narrow or not self.value_in_key, f"values {v} are no part of keys {k}")
        heads, groups = q.shape[2], k.shape[2]
        require(isinstance(heads, Dim) and isinstance(groups, Dim), "heads have no size")
        require(isinstance(v.shape[-1], Dim), f"values {v} have no size")
        if isinstance(heads, Dim) and isinstance(groups, Dim):
            heads // groups  # raises where it leaves a remainder
        if sinks is not None:
            require(sinks.shape == (heads,), f"sinks are {sinks}, not one a head")
        return q.last(*v.row[-1:])

    def initial(self, operand: str) -> str:
        return "zeros"

    def beginnings(self) -> Mapping[str, str]:
        return {"v": "k"} if self.value_in_key else {}

    def reach(self) -> Dim | None:
        return self.window

    def pages(self) -> Dim | None:
        return self.page

    def cost(self, sizes: Sizes, *operands: TensorType) -> Cost:
        """Two products for each pair of a query and a slot that it sees; of the context, the rows
        that some query sees, once for all heads of a group."""
        q, k, v, *rest = operands
        window = None if self.window is None else self.window.size
        ends = k.row[-1].size + v.row[-1].size
        flops = 2 * sizes.pairs(window) * q.row[0].size * ends
        call = (q, *rest, *self.types(*operands))
        read = k.row[-1].size if self.value_in_key else ends
        row = BYTES[k.dtype] * k.row[0].size * read
        return Cost(flops, sum(map(sizes.bytes, call)) + sizes.slots(window) * row)

    def gradient_cost(self, sizes: Sizes, wanted: Collection[str], *operands: TensorType) -> Cost:
        """Scores once more, which nobody keeps, and four products of gradients: of shares and
        values as wide as a value, of queries and keys as a key (arXiv:2205.14135, algorithm 4)."""
        q, k, v, *_ = operands
        window = None if self.window is None else self.window.size
        wide = 3 * k.row[-1].size + 2 * v.row[-1].size
        flops = 2 * sizes.pairs(window) * q.row[0].size * wide
        read = self.cost(sizes, *operands).bytes  # as forward, with a gradient for the result
        return Cost(flops, read + self.written_gradients(sizes, wanted, *operands))

    def reference(
        self, q: Array, k: Array, v: Array, positions: Indices, sinks: Array | None = None
    ) -> Array:
        group = q.shape[2] // k.shape[2]
        slots = np.arange(k.shape[1])
        seen = slots <= positions[..., None]  # [B, T, S]
        if self.window is not None:
            seen &= slots > positions[..., None] - int(self.window)
        # What no query sees may hold anything, NaN included.
        read = seen.any(axis=1)[:, :, None, None]
        k, v = np.where(read, k, 0.0), np.where(read, v, 0.0)
        k, v = np.repeat(k, group, axis=2), np.repeat(v, group, axis=2)
        scores = np.einsum("bthk,bshk->bhts", q, k) * self.scale
        if self.softcap is not None:
            scores = self.softcap * np.tanh(scores / self.softcap)
        scores = np.where(seen[:, None], scores, -np.inf)
        top = scores.max(axis=-1, keepdims=True)
        if sinks is not None:
            top = np.maximum(top, sinks[:, None, None])
        weights = np.exp(scores - top)
        total = weights.sum(axis=-1, keepdims=True)
        if sinks is not None:
            total = total + np.exp(sinks[:, None, None] - top)
        return np.asarray(np.einsum("bhts,bshv->bthv", weights / total, v))
