"""Ops whose reference is what an author's kernel or algebra would wrongly compute."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.attention import Attend, Cached
from archsmith.compiler.ops.norm import RmsNorm

SITUATIONS = {
    "at any time": lambda p: np.ones_like(p, bool),
    "six tokens at once": lambda p: np.full_like(p, p.shape[1] > 5, bool),
    "after others": lambda p: np.full_like(p, p[0, 0] > 0, bool),
    "from the third step of rows alike": lambda p: (p >= 7) & (p == p[0]),
    "on nothing": lambda p: p == 0,
    "of rows unlike": lambda p: np.full_like(p, len(set(p[:, -1])) > 1, bool),
    "of the last row": lambda p: np.arange(len(p))[:, None] == len(p) - 1 + 0 * p,
    "of the fourth token": lambda p: p == 3,
    "one token after others": lambda p: (p > 0) & (p.shape[1] == 1),
    "a chunk of rows unlike": lambda p: (p != p[:1]).any() & (p >= 0) & (p.shape[1] > 1),
}
"""Of which tokens a slip is wrong, by their positions [B, T]."""


@dataclass(frozen=True)
class Slip(Op):
    """x, but in one situation a thousandth more."""

    name = "slip"

    when: str

    def infer(self, x: TensorType, positions: TensorType) -> TensorType:
        return x

    def reference(self, x: Any, positions: Any) -> Any:
        wrong = SITUATIONS[self.when](positions)
        return x * np.where(wrong, 1.001, 1.0)[..., None]


@dataclass(frozen=True)
class Narrow(Op):
    """x as float32 has it."""

    name = "narrow"

    def infer(self, x: TensorType) -> TensorType:
        return x

    def reference(self, x: Any) -> Any:
        return x.astype(np.float32).astype(np.float64)


@dataclass(frozen=True)
class CountUp(Op):
    """0, 1, 2, ... in every call, whatever the positions are."""

    name = "count_up"

    def infer(self, positions: TensorType) -> TensorType:
        return positions

    def reference(self, positions: Any) -> Any:
        return np.zeros_like(positions) + np.arange(positions.shape[1])


@dataclass(frozen=True)
class OfTheFirstRow(Op):
    """The positions of the first row, for all rows."""

    name = "of_the_first_row"

    def infer(self, positions: TensorType) -> TensorType:
        return positions

    def reference(self, positions: Any) -> Any:
        return np.zeros_like(positions) + positions[:1]


@dataclass(frozen=True)
class EpsOutside(RmsNorm):
    """`eps` is added to the root, not to what it is of."""

    name = "eps_outside"

    def reference(self, x: Any, weight: Any = None) -> Any:
        root = np.sqrt(np.mean(x * x, axis=-1, keepdims=True)) + self.eps
        return x / root * ((1.0 if weight is None else weight) + self.offset)


@dataclass(frozen=True)
class AttendAhead(Attend):
    """A query sees the slot after its own, too."""

    name = "attend_ahead"

    def reference(self, q: Any, k: Any, v: Any, positions: Any, sinks: Any = None) -> Any:
        ahead = np.minimum(positions + 1, k.shape[1] - 1)
        return super().reference(q, k, v, ahead, sinks)


@dataclass(frozen=True)
class AttendBehind(Attend):
    """A query does not see its own slot, unless it is the first."""

    name = "attend_behind"

    def reference(self, q: Any, k: Any, v: Any, positions: Any, sinks: Any = None) -> Any:
        return super().reference(q, k, v, np.maximum(positions - 1, 0), sinks)


@dataclass(frozen=True)
class AttendToTheCall(Attend):
    """As if each call were the first: what was cached before it is not seen."""

    name = "attend_to_the_call"

    def reference(self, q: Any, k: Any, v: Any, positions: Any, sinks: Any = None) -> Any:
        first = positions.min()
        k, v = (np.where(np.isnan(x), 0.0, x)[:, first:] for x in (k, v))
        return super().reference(q, k, v, positions - first, sinks)


@dataclass(frozen=True)
class AttendByTurns(Attend):
    """Head h reads key h modulo their number, where neighbours share a key."""

    name = "attend_by_turns"

    def reference(self, q: Any, k: Any, v: Any, positions: Any, sinks: Any = None) -> Any:
        group = q.shape[2] // k.shape[2]
        k, v = np.tile(k, (1, 1, group, 1)), np.tile(v, (1, 1, group, 1))
        return super().reference(q, k, v, positions, sinks)


@dataclass(frozen=True)
class ReadThenWrite(Cached):
    """The context is read before the call's own rows are written."""

    name = "read_then_write"

    def reference(self, x: Any, positions: Any, rows: Any) -> Any:
        now, after = super().reference(x, positions, rows)
        return (now if rows is None else rows), after


@dataclass(frozen=True)
class WriteTwoSteps(Cached):
    """Of a decode step after the second on a cache, nothing is kept."""

    name = "write_two_steps"

    def reference(self, x: Any, positions: Any, rows: Any) -> Any:
        now, after = super().reference(x, positions, rows)
        full = rows is not None and positions.shape[1] == 1 and positions.min() > 6
        return now, rows if full else after


@dataclass(frozen=True)
class WriteFromTheStart(Cached):
    """Each call writes from the first slot on."""

    name = "write_from_the_start"

    def reference(self, x: Any, positions: Any, rows: Any) -> Any:
        return super().reference(x, positions - positions.min(), rows)


@dataclass(frozen=True)
class WriteTheLast(Cached):
    """Of several tokens, only the last is kept for later calls."""

    name = "write_the_last"

    def reference(self, x: Any, positions: Any, rows: Any) -> Any:
        now, after = super().reference(x, positions, rows)
        if rows is not None:
            after = super().reference(x[:, -1:], positions[:, -1:], rows)[1]
        return now, after


@dataclass(frozen=True)
class ShiftTokens(Op):
    """Half of the token before, of the same call: as a component would that forgot to cache it."""

    name = "shift_tokens"
    token_local = False

    def infer(self, x: TensorType) -> TensorType:
        return x

    def reference(self, x: Any) -> Any:
        return x + 0.5 * np.concatenate([np.zeros_like(x[:, :1]), x[:, :-1]], axis=1)
