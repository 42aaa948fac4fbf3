"""Calls of attention to rows in float8; what no query sees is not a number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ops.quantized_attention import QuantizedAttend
from archsmith.compiler.ops.quantized_rows import QuantizeRows
from kernels.checks import Edit, Results, in_pages, interpreted


@dataclass(frozen=True)
class Case:
    """Queries at the last `tokens` of each row's context."""

    contexts: Sequence[int]
    heads: int
    columns: int
    rest: int
    block: int = 16
    tokens: int = 1
    slots: int = 0
    """0: the longest context."""
    page: int = 0
    """Slots of the pages that rows lie in."""

    def __str__(self) -> str:
        contexts = "+".join(map(str, self.contexts))
        sizes = f"{self.heads}x{self.columns}+{self.rest}by{self.block}"
        return f"{self.tokens}of{contexts}-{sizes}" + f"-page{self.page}" * (self.page > 0)

    def run(
        self,
        dtype: str,
        *,
        kernel: str = "triton.quantized_attention",
        target: str = "h200",
        edit: Edit | None = None,
        part_of: int = 0,
    ) -> tuple[Results, Results]:
        """The kernel's result and its op's; `part_of`: rows are the beginnings of rows so wide."""
        rows, slots = len(self.contexts), self.slots or max(self.contexts)
        draws, block = np.random.default_rng(1), Dim.of(self.block)
        latent = draws.standard_normal((rows, slots, self.columns))
        latent[:, slots // 2, : self.block] = 0.0  # of a scale of one
        latent *= np.exp2(draws.integers(-6, 3, (rows, slots, 1)))
        numbers, scales = QuantizeRows(block).reference(latent)
        rest = draws.standard_normal((rows, slots, self.rest))
        for row, context in enumerate(self.contexts):
            for values in (numbers, scales, rest):
                values[row, context:] = np.nan
        first = np.array(self.contexts)[:, None] - self.tokens
        positions = np.maximum(first + np.arange(self.tokens), 0)
        names = ("numbers", "numbers_scale", "rest", "positions")
        contexts = dict(zip(names[:3], (numbers, scales, rest), strict=True))
        page = Dim.of(self.page) if self.page else None
        wide = {"q": 0, "numbers": part_of, "numbers_scale": part_of, "rest": part_of}
        return interpreted(
            kernel,
            QuantizedAttend((self.columns + self.rest) ** -0.5, block, page),
            [
                f"[B, T, {self.heads}, {self.columns + self.rest}]",
                f"float8_e4m3fn[B, S, {self.columns}]",
                f"float32[B, S, {-(-self.columns // self.block)}]",
                f"[B, S, {self.rest}]",
                "int64[B, T]",
            ],
            Sizes(rows, self.tokens, slots),
            dtype=dtype,
            values=dict(zip(names, (numbers, scales, rest, positions), strict=True)),
            part_of={key: width for key, width in wide.items() if width},
            target=target,
            edit=edit,
            phases=("decode",),
            given=in_pages(contexts, self.page, self.contexts) if self.page else None,
        )
