"""Attention of many queries in Triton: tiles of queries, and blocks of slots that stream past."""

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
from ...compiler.schedule.tiles import power_of_2
from .attention import LEAST, Sizes, given, refusal

REACHED = 487 / 989.4
"""Of the peak, where a program of Triton's asks for products and waits: the best of its attention
without warp specialization on an H100 (facebookexperimental/triton, pull request 829)."""
EACH = 96  # results and scores that a thread has registers for


class TritonPrefillAttention(Kernel):
    name = "triton.prefill_attention"
    implements = "attend"
    functions = ("prefill_attention",)
    triton = True
    reference = "torch.attend"
    parts = ("attention_tiles",)
    phases = ("train", "prefill")  # of one query, it leaves processors idle
    gradient = "triton.prefill_attention_gradients"  # PyTorch's would go through a mask
    ladder = (16, 64)

    def refuses(self, op: Attend, operands: tuple[TensorType, ...], target: Target) -> str | None:
        if reason := refusal(op, operands, target, plain=False):
            return reason
        rows = (*self.ladder, 4 * self.ladder[-1])
        if any(next(self.configs(op, operands, n, target), None) is None for n in rows):
            return f"no tile fits the shared memory of {target.shared_memory} bytes"
        return None

    def cost(
        self, op: Attend, operands: tuple[TensorType, ...], sizes: Call, target: Target
    ) -> Cost:
        least = op.cost(sizes, *operands)
        asynchronous = "wgmma" in target.features and Sizes.of(operands).bytes == 2
        reached = REACHED if asynchronous else 1.0
        return Cost(least.flops / reached, least.bytes, 1)

    def configs(
        self, op: Attend, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        sizes = Sizes.of(operands)
        block_m = _block_m(sizes, rows)
        # Of three loops beside sums in tensor memory, Triton 3.6 spills where blocks are wide.
        edged = op.window is not None and sizes.value <= 64 and "tcgen05" in target.features
        for block_n, stages in _steps(sizes, block_m, edged, target):
            if sizes.held(block_m, block_n, stages, target) <= target.shared_memory:
                constants = {**sizes.columns, "BLOCK_M": block_m, "BLOCK_N": block_n}
                best = _warps(sizes, block_m, block_n, target)
                for warps in (best, 8 if block_m >= 64 else best):  # never fewer: they would spill
                    yield Config(constants, warps, stages)

    def key(self, op: Attend, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        return Sizes.of(operands).key

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        found = {}
        for use in uses:
            tiles = {most: config.options() for most, config in use.tiles}
            found[Sizes.of(use.operands).key] = tiles
        return {"TILES": {key: found[key] for key in sorted(found)}}

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        found = options(uses)
        absent = [key for key in found if not found[key]]
        absent += [] if found["window"] else ["held"]  # which says where a window's rows are
        return {**found, "absent": tuple_of(*map(name, absent)) if absent else None}

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
        if "train" in phases:  # in PyTorch that is a faster path; here, positions say as much
            others = {"causal": name("cache").is_none() if phases[1:] else True, **others}
        return call("prefill_attention", q, k, v, positions, op.scale, **others)


def options(uses: tuple[Use, ...]) -> dict[str, bool]:
    """What there is text for."""
    return {
        "window": any(use.op.window is not None for use in uses),
        "softcap": any(use.op.softcap is not None for use in uses),
        "sinks": any(len(use.operands) > 4 for use in uses),
    }


def _block_m(sizes: Sizes, rows: int) -> int:
    """Rows of a tile: as many as a program's registers hold the results of, in float32."""
    if sizes.bytes > 2:
        return LEAST  # exact products: no matrix instruction, and operands twice as large
    if sizes.value > 128:
        return 64 if sizes.value <= 256 else 32
    return min(max(power_of_2(rows * sizes.group), LEAST), 128)


def _steps(sizes: Sizes, block_m: int, edged: bool, target: Target) -> Iterator[tuple[int, int]]:
    """Slots of a block, and how many blocks are in flight, the best first.

    Scores stay in registers beside the results. Where the operands of products pass through
    registers too, only narrow blocks leave room for them.
    """
    masked = sizes.k <= 32 and sizes.k != sum(sizes.parts)  # tried, and it spills
    narrow = edged or masked
    if block_m == 128 and {"wgmma", "tcgen05", "mfma"} & {*target.features} and not narrow:
        yield from ((64, 3), (64, 2))
    if sizes.bytes <= 2 and sizes.value <= 256:
        yield from ((32, 3), (32, 2))
    yield from ((16, 3), (16, 2))


def _warps(sizes: Sizes, block_m: int, block_n: int, target: Target) -> int:
    """Warps of a program: more where a thread of four would hold too much."""
    lanes = 1 if target.triton is None else target.triton["warp_size"]
    held = block_m * (sizes.value + block_n) * sizes.bytes // 2
    if block_m == 64 and sizes.parts[1] and "tcgen05" in target.features:
        return 8  # tried: of keys in two parts, four spill in Triton 3.9
    return 8 if held > EACH * 4 * lanes else 4
