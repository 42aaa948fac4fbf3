"""Attention as tests need it: contexts of any length, and rows that end where others go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ops.attention import Attend
from kernels.checks import Edit, Results, interpreted

# Of the weights' and the result's rounding to the stored dtype, and of sums in another order.
CLOSE = {"float32": 2e-6, "float16": 2e-3}


@dataclass(frozen=True)
class Case:
    """Queries at the last `tokens` of each row's context; what no query sees is not a number."""

    contexts: Sequence[int]
    heads: int
    kv_heads: int
    key: int
    value: int
    tokens: int = 1
    slots: int = 0
    """0: the longest context."""
    window: int = 0
    softcap: float | None = None
    sinks: bool = False
    in_key: bool = False
    """Values are the first columns of keys."""
    ring: int = 0
    """Slots of a ring that holds the last positions of each row, in an order of its own."""

    def __str__(self) -> str:
        contexts = "+".join(map(str, self.contexts))
        kind = f"{self.tokens}of{contexts}-{self.heads}x{self.key}-{self.kv_heads}x{self.value}"
        said = [
            *[f"window{self.window}"] * (self.window > 0),
            *[f"ring{self.ring}"] * (self.ring > 0),
            *["cap"] * (self.softcap is not None),
            *["sinks"] * self.sinks,
            *["in-key"] * self.in_key,
        ]
        return "-".join([kind, *said])

    def run(
        self,
        kernel: str,
        dtype: str,
        *,
        target: str = "h200",
        edit: Edit | None = None,
        part_of: int = 0,
    ) -> tuple[Results, Results]:
        """A kernel's result and its op's; `part_of`: keys are the beginnings of rows so wide."""
        slots = self.slots or max(self.contexts)
        draws = np.random.default_rng(1)
        values = {}
        for name, width in (("k", self.key), ("v", self.value)):
            drawn = draws.standard_normal((len(self.contexts), slots, self.kv_heads, width))
            for row, context in zip(drawn, self.contexts, strict=True):
                row[context:] = np.nan
            values[name] = drawn
        if self.in_key:
            values["v"] = values["k"][..., : self.value]
        first = np.array(self.contexts)[:, None] - self.tokens
        values["positions"] = np.maximum(first + np.arange(self.tokens), 0)
        op = Attend(
            self.key**-0.5,
            Dim.of(self.window) if self.window else None,
            self.softcap,
            self.in_key,
        )
        return interpreted(
            kernel,
            op,
            [
                f"[B, T, {self.heads}, {self.key}]",
                f"[B, S, {self.kv_heads}, {self.key}]",
                f"[B, S, {self.kv_heads}, {self.value}]",
                "int64[B, T]",
                *[f"[{self.heads}]"] * self.sinks,
            ],
            Sizes(len(self.contexts), self.tokens, slots),
            dtype=dtype,
            values=values,
            part_of={"k": part_of, "q": part_of} if part_of else None,
            target=target,
            edit=edit,
            given=self._ring(values) if self.ring else None,
        )

    def _ring(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Keys and values as a ring has them, and the positions that its slots hold."""
        far = np.iinfo(np.int64).max
        held = np.full((len(self.contexts), self.ring), far)
        for row, context in zip(held, self.contexts, strict=True):
            for position in range(max(0, context - self.ring), context):
                row[position % self.ring] = position
        found = {"held": held}
        at = np.where(held == far, 0, held)[..., None, None]
        for key in ("k", "v"):
            kept = np.take_along_axis(values[key], at, axis=1)
            found[key] = np.where((held == far)[..., None, None], 7.0, kept)
        return found
