"""Rotary position embedding (arXiv:2104.09864): the rotations of positions, and their use."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np

from ..ir.cost import Cost, Sizes
from ..ir.dims import Dim, Which
from ..ir.op import Array, Indices, Op, require
from ..ir.types import TensorType

SCALINGS = ("none", "linear", "yarn", "llama3", "longrope")


@dataclass(frozen=True)
class Rotations(Op):
    """Cosine and sine [B, T, width / 2] of each position's angles, times `gain`.

    Pair i turns by `position * theta ** (-2 i / width)`, with the frequencies scaled for contexts
    longer than `original_max_positions`: "linear" divides them by `factor` (arXiv:2306.15595),
    "yarn" those below a ramp between two counts of turns (arXiv:2309.00071, section 3.2), "llama3"
    those of wavelengths above a band (arXiv:2407.21783; the blend is in Llama 3.1's model code).
    "longrope" divides each by its own of `factors` (arXiv:2402.13753); at a probe, where pairs are
    fewer or more, each takes the factor that stands as far along the list.
    """

    name = "rotations"

    width: Dim
    theta: float
    dtype: str
    scaling: str = "none"
    factor: float = 1.0
    original_max_positions: float = 0.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    factors: tuple[float, ...] = ()
    gain: float = 1.0

    def at(self, which: Which) -> Rotations:
        op = super().at(which)
        assert isinstance(op, Rotations)
        pairs, count = int(op.width) // 2, len(self.factors)
        spread = (self.factors[pair * count // pairs] for pair in range(pairs) if count)
        return replace(op, factors=tuple(spread))

    def infer(self, positions: TensorType) -> tuple[TensorType, TensorType]:
        require(positions.dtype == "int64", f"positions are {positions}")
        require(self.scaling in SCALINGS, f"{self.scaling} is no scaling: {', '.join(SCALINGS)}")
        pairs = self.width.size // 2 if self.scaling == "longrope" else 0
        require(len(self.factors) == pairs, f"{len(self.factors)} factors for {pairs} pairs")
        table = TensorType(self.dtype, (*positions.shape, self.width // 2)).wide
        return table, table

    def reference(self, positions: Indices) -> tuple[Array, Array]:
        angles = positions[..., None] * self._frequencies()
        return np.cos(angles) * self.gain, np.sin(angles) * self.gain

    def _frequencies(self) -> Array:
        width = int(self.width)
        plain = self.theta ** (-np.arange(0, width, 2, dtype=np.float64) / width)
        if self.scaling == "longrope":
            return plain / np.array(self.factors)
        if self.scaling == "linear":
            return plain / self.factor
        if self.scaling == "yarn":
            low, high = self._turns(self.beta_fast), self._turns(self.beta_slow)
            if self.truncate:
                low, high = math.floor(low), math.ceil(high)
            low, high = max(low, 0), min(high, width - 1)
            high += 0.001 if low == high else 0.0
            ramp = np.clip((np.arange(width // 2) - low) / (high - low), 0, 1)
            return plain / self.factor * ramp + plain * (1 - ramp)
        if self.scaling == "llama3":
            turns = self.original_max_positions * plain / (2 * math.pi)
            span = self.high_freq_factor - self.low_freq_factor
            keep = np.clip((turns - self.low_freq_factor) / span, 0, 1)
            return keep * plain + (1 - keep) * plain / self.factor
        return plain

    def _turns(self, turns: float) -> float:
        """The pair that makes this many turns over the original context."""
        width = int(self.width)
        length = self.original_max_positions / (turns * 2 * math.pi)
        return width * math.log(length) / (2 * math.log(self.theta))


@dataclass(frozen=True)
class Rope(Op):
    """Rotate the pairs of the last axis of x [B, T, (H,) K] by cos, sin [B, T, K / 2].

    Pairs are (0, 1), (2, 3), ... where `interleaved`, else (0, K/2), (1, K/2 + 1), ...
    """

    name = "rope"

    interleaved: bool

    def infer(self, x: TensorType, cos: TensorType, sin: TensorType) -> TensorType:
        width = x.shape[-1]
        require(isinstance(width, Dim) and cos == sin, f"cos is {cos}, sin {sin}")
        half = cos.shape[-1]
        fits = isinstance(half, Dim) and half * 2 == width and cos.shape[:2] == x.shape[:2]
        require(fits, f"rotations {cos} do not fit {x}")
        return x

    def gradient_cost(self, sizes: Sizes, wanted: Collection[str], *operands: TensorType) -> Cost:
        """What comes in is turned back; tables are made of positions, which have no gradient."""
        x, *tables = operands
        return Cost(bytes=2 * sizes.bytes(x) + sum(map(sizes.bytes, tables)))

    def reference(self, x: Array, cos: Array, sin: Array) -> Array:
        if x.ndim == 4:
            cos, sin = cos[:, :, None], sin[:, :, None]
        out = np.empty_like(x)
        half = x.shape[-1] // 2
        first, second = (slice(0, half), slice(half, None))
        if self.interleaved:
            first, second = (slice(0, None, 2), slice(1, None, 2))
        a, b = x[..., first], x[..., second]
        out[..., first] = a * cos - b * sin
        out[..., second] = a * sin + b * cos
        return out
