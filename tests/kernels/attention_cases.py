"""Attention as tests need it: contexts of any length, and rows that end where others go on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.machine.tuned import Options
from archsmith.compiler.ops.attention import Attend
from kernels.checks import Edit, Results, gradients, in_pages, interpreted

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
    page: int = 0
    """Slots of the pages that keys and values lie in, in an order of their own."""

    def __str__(self) -> str:
        contexts = "+".join(map(str, self.contexts))
        kind = f"{self.tokens}of{contexts}-{self.heads}x{self.key}-{self.kv_heads}x{self.value}"
        said = [
            *[f"window{self.window}"] * (self.window > 0),
            *[f"ring{self.ring}"] * (self.ring > 0),
            *[f"page{self.page}"] * (self.page > 0),
            *["cap"] * (self.softcap is not None),
            *["sinks"] * self.sinks,
            *["in-key"] * self.in_key,
        ]
        return "-".join([kind, *said])

    @property
    def op(self) -> Attend:
        window = Dim.of(self.window) if self.window else None
        page = Dim.of(self.page) if self.page else None
        return Attend(self.key**-0.5, window, self.softcap, self.in_key, page)

    @property
    def types(self) -> list[str]:
        return [
            f"[B, T, {self.heads}, {self.key}]",
            f"[B, S, {self.kv_heads}, {self.key}]",
            f"[B, S, {self.kv_heads}, {self.value}]",
            "int64[B, T]",
            *([f"[{self.heads}]"] if self.sinks else []),
        ]

    @property
    def sizes(self) -> Sizes:
        return Sizes(len(self.contexts), self.tokens, self.slots or max(self.contexts))

    def values(self, dtype: str, before: bool = False) -> dict[str, Any]:
        """Operands as they are stored; no numbers also `before` what a window shows."""
        draws = np.random.default_rng(1)
        batch, slots = len(self.contexts), self.sizes.context
        first = np.array(self.contexts)[:, None] - self.tokens
        values = {"positions": np.maximum(first + np.arange(self.tokens), 0)}
        for name, width in (("k", self.key), ("v", self.value)):
            drawn = draws.standard_normal((batch, slots, self.kv_heads, width))
            for row, context, (start, *_) in zip(drawn, self.contexts, first, strict=True):
                row[context:] = np.nan
                if before:
                    row[: max(start - (self.window or slots) + 1, 0)] = np.nan
            values[name] = drawn.astype(dtype)
        if self.in_key:
            values["v"] = values["k"][..., : self.value]
        shape = batch, self.tokens, self.heads, self.key
        values["q"] = draws.standard_normal(shape).astype(dtype)
        if self.sinks:
            values["sinks"] = draws.standard_normal(self.heads).astype(dtype)
        return values

    def run(
        self,
        kernel: str,
        dtype: str,
        *,
        target: str = "h200",
        edit: Edit | None = None,
        part_of: int = 0,
    ) -> tuple[Results, Results]:
        """A kernel's results and its op's; `part_of`: keys are the beginnings of rows so wide.

        Where a kernel gives the logarithm of totals too, that is compared as well.
        """
        values = self.values(dtype, before="prefill_attention" in kernel)
        found, wanted = interpreted(
            kernel,
            self.op,
            self.types,
            self.sizes,
            dtype=dtype,
            values=values,
            part_of={"k": part_of, "q": part_of} if part_of else None,
            target=target,
            edit=edit,
            given=self.elsewhere(values),
        )
        return found, (*wanted, log_total(self, values))[: len(found)]

    def elsewhere(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray | int] | None:
        """Keys and values as a ring or pages have them, and what says where they are."""
        if self.page:
            return in_pages({key: values[key] for key in ("k", "v")}, self.page, self.contexts)
        return self._ring(values) if self.ring else None

    def _ring(self, values: dict[str, np.ndarray]) -> dict[str, np.ndarray | int]:
        """Keys and values as a ring has them, and the positions that its slots hold."""
        far = np.iinfo(np.int64).max
        held = np.full((len(self.contexts), self.ring), far)
        for row, context in zip(held, self.contexts, strict=True):
            for position in range(max(0, context - self.ring), context):
                row[position % self.ring] = position
        found: dict[str, np.ndarray | int] = {"held": held}
        at = np.where(held == far, 0, held)[..., None, None]
        for key in ("k", "v"):
            kept = np.take_along_axis(values[key], at, axis=1)
            found[key] = np.where((held == far)[..., None, None], 7.0, kept)
        return found


def log_total(case: Case, values: Mapping[str, np.ndarray]) -> np.ndarray:
    """log2(sum(exp(score))) of each query, [B, T, H]."""
    q, k = (np.nan_to_num(values[name].astype("float64")) for name in ("q", "k"))
    k = np.repeat(k, case.heads // case.kv_heads, axis=2)
    scores = np.einsum("bthk,bshk->bths", q, k) * case.key**-0.5
    if case.softcap is not None:
        scores = case.softcap * np.tanh(scores / case.softcap)
    position = np.minimum(values["positions"], k.shape[1] - 1)[..., None]
    slots = np.arange(k.shape[1])
    seen = (slots <= position) & (slots > position - (case.window or k.shape[1]))
    total = np.where(seen[:, :, None], np.exp(scores), 0.0).sum(-1)
    total += np.exp(values["sinks"].astype("float64")) if case.sinks else 0.0
    return np.asarray(np.log2(total))


def gradients_of(
    case: Case,
    dtype: str,
    *,
    target: str = "h200",
    edit: Edit | None = None,
    part_of: Mapping[str, int] | None = None,
    unwanted: Sequence[str] = (),
    tiles: Mapping[int | None, Options] = MappingProxyType({}),
) -> tuple[Results, Results]:
    """The gradients that the kernel computes of a case, and those of PyTorch in float64."""
    values = {key: np.nan_to_num(value) for key, value in case.values(dtype).items()}
    wide = {k: v if k == "positions" else v.astype("float64") for k, v in values.items()}
    names = ("q", "k", "v", "positions", "sinks")
    out = case.op.at("size").reference(*(wide[key] for key in names if key in wide))
    fresh = set(case.contexts) == {case.tokens} and case.sizes.context == case.tokens
    return gradients(
        "triton.prefill_attention_gradients",
        case.op,
        case.types,
        case.sizes,
        of=("q", "k", "v", *(["sinks"] if case.sinks else [])),
        dtype=dtype,
        values={**values, "result_0": out, "result_1": log_total(case, values)},
        unwanted=unwanted,
        part_of=part_of,
        target=target,
        edit=edit,
        phases=("train",) if fresh else ("prefill",),
        tiles=tiles,
    )
