"""What an op costs on any machine: its arithmetic, and the bytes it moves."""

from __future__ import annotations

import math
from dataclasses import dataclass

from .dims import BATCH, CONTEXT, TOKENS
from .types import BYTES, TensorType

USUAL_CONTEXT = 4096
"""Tokens of a row where nothing is said of them."""


@dataclass(frozen=True)
class Sizes:
    """The axes that no graph knows: what one call is given."""

    batch: int
    tokens: int
    """New tokens of each row."""
    context: int
    """Tokens of each row once the call is made: those before it, and its own."""

    @classmethod
    def usual(cls, phase: str, batch: int = 1, context: int = USUAL_CONTEXT) -> Sizes:
        """A call of a phase: in decode all tokens but one are cached, otherwise none is."""
        return cls(batch, 1 if phase == "decode" else context, context)

    def count(self, type: TensorType) -> int:
        """The elements of a value."""
        named = {BATCH: self.batch, TOKENS: self.tokens, CONTEXT: self.context}
        return math.prod(type.sizes("size", **named))

    def bytes(self, type: TensorType) -> int:
        return self.count(type) * BYTES[type.dtype]

    @property
    def rows(self) -> int:
        """The new tokens of all rows."""
        return self.batch * self.tokens

    def slots(self, window: int | None = None) -> int:
        """Slots that some query of a row sees, in all rows."""
        reach = self.context if window is None else min(self.context, window + self.tokens - 1)
        return self.batch * reach

    def pairs(self, window: int | None = None) -> int:
        """Pairs of a query and a slot that it sees, in all rows: a query sees the slots up to its
        own, and of these the last `window`."""
        reach = self.context if window is None else window

        def seen(queries: int) -> int:  # by the first so many tokens of a row
            rising = min(queries, reach)
            return rising * (rising + 1) // 2 + (queries - rising) * reach

        return self.batch * (seen(self.context) - seen(self.context - self.tokens))


@dataclass(frozen=True)
class Cost:
    """Work that no way to compute an op can avoid, or that one way to compute it takes."""

    flops: float = 0
    """Of contractions; a multiplication and an addition are two."""
    bytes: float = 0
    """Moved between the processor and its memory."""
    launches: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.flops + other.flops, self.bytes + other.bytes, self.launches + other.launches
        )

    def __mul__(self, times: float) -> Cost:
        return Cost(self.flops * times, self.bytes * times, int(self.launches * times))
