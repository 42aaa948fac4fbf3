"""Attention as tests need it: contexts of any length, and rows that end where others go on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from archsmith.compiler.ir.cost import Sizes
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

    def __str__(self) -> str:
        contexts = "+".join(map(str, self.contexts))
        return f"{self.tokens}of{contexts}-{self.heads}x{self.key}-{self.kv_heads}x{self.value}"

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
        first = np.array(self.contexts)[:, None] - self.tokens
        values["positions"] = first + np.arange(self.tokens)
        return interpreted(
            kernel,
            Attend(self.key**-0.5),
            [
                f"[B, T, {self.heads}, {self.key}]",
                f"[B, S, {self.kv_heads}, {self.key}]",
                f"[B, S, {self.kv_heads}, {self.value}]",
                "int64[B, T]",
            ],
            Sizes(len(self.contexts), self.tokens, slots),
            dtype=dtype,
            values=values,
            part_of={"k": part_of, "q": part_of} if part_of else None,
            target=target,
            edit=edit,
        )
