"""Attention of many queries in Gluon, whose products go on while scores become weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.cost import Cost
from ...compiler.ir.cost import Sizes as Call
from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.attention import Attend
from ...compiler.schedule.code import Code, call, name, tuple_of
from ...compiler.schedule.kernel import Config, Kernel, Use
from .attention import Sizes, given, refusal
from .prefill_attention import options

ROWS = 128  # queries of a tile: 64 for each of two warp groups
SWIZZLED = 64  # columns that the instruction's layout of shared memory takes at a time
WIDEST = 128  # columns of a result that a tile has registers for, and of a key's first part
REACHED = 570 / 989.4
"""Of the peak, in FlashAttention-3 without warp specialization, whose products and weights overlap
as here (arXiv:2407.08608, section 4.2)."""


class GluonPrefillAttention(Kernel):
    name = "gluon.prefill_attention"
    implements = "attend"
    functions = ("overlapped_attention",)
    parts = ("gluon", "overlapped_blocks", "overlapped_tile")
    triton = True
    gluon = True
    reference = "triton.prefill_attention"
    phases = ("train", "prefill")
    gradient = "triton.prefill_attention_gradients"

    def refuses(self, op: Attend, operands: tuple[TensorType, ...], target: Target) -> str | None:
        if reason := refusal(op, operands, target, plain=False):
            return reason
        sizes = Sizes.of(operands)
        if "wgmma" not in target.features:
            return f"{target.name} has no wgmma, which its products are written for"
        if sizes.bytes != 2:
            return f"its tiles are of 16 bits, not of {operands[1].dtype}"
        key, rest = sizes.parts
        whole = key + rest == sizes.k and sizes.value == sizes.v
        if not whole or min(key, rest or key, sizes.v) < SWIZZLED or max(key, sizes.v) > WIDEST:
            return (
                f"keys of {sizes.k} and values of {sizes.v} are no powers of two from {SWIZZLED}"
                f" to {WIDEST}, or keys a sum of two of them"
            )
        if next(self.configs(op, operands, ROWS, target), None) is None:
            return f"no tile fits the shared memory of {target.shared_memory} bytes"
        return None

    def cost(
        self, op: Attend, operands: tuple[TensorType, ...], sizes: Call, target: Target
    ) -> Cost:
        least = op.cost(sizes, *operands)
        return Cost(least.flops / REACHED, least.bytes, 1)

    def configs(
        self, op: Attend, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        sizes = Sizes.of(operands)
        key, rest = sizes.parts
        columns = {"KEY": key, "REST": rest, "VALUE": sizes.v}
        block_n = _slots(op, sizes)
        if _held(sizes, block_n) <= target.shared_memory:
            yield Config({**columns, "BLOCK_M": ROWS, "BLOCK_N": block_n}, num_warps=8)

    def key(self, op: Attend, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        return Sizes.of(operands).key

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        tiles = {Sizes.of(use.operands).key: use.tiles[-1][1].options() for use in uses}
        return {"TILES": {key: tiles[key] for key in sorted(tiles)}}

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        found = options(uses)
        absent = [name(key) for key in found if not found[key]]
        return {**found, "unlike": tuple_of(*absent, name("held"))}

    def call(
        self,
        op: Attend,
        q: Code,
        k: Code,
        v: Code,
        positions: Code,
        sinks: Code | None = None,
        *,
        phases: tuple[str, ...],
        held: Code | None = None,
    ) -> Code:
        others = given(op, sinks, held)
        if "train" in phases:
            others = {"causal": name("cache").is_none() if phases[1:] else True, **others}
        return call("overlapped_attention", q, k, v, positions, op.scale, **others)


def _slots(op: Attend, sizes: Sizes) -> int:
    """Slots of a block: a thread holds its scores and results, and the weights of two blocks.

    Tried: beside 128 columns and 128 slots, a window leaves Triton 3.9 too few registers.
    """
    narrow = op.softcap is not None or (op.window is not None and sizes.v > 64)
    return 64 if narrow else 128


def _held(sizes: Sizes, block_n: int) -> int:
    """Bytes of queries, and of two blocks of keys and values."""
    return sizes.bytes * (sizes.k * ROWS + 2 * block_n * (sizes.k + sizes.v))
