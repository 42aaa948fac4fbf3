"""Gradients of attention in Triton: scores are made again from queries and keys, twice.

Of forward's two products (scores, and sums of values) backward makes seven: scores and the
gradients of shares for queries, both once more for keys and values, and a sum for each of the
three. One pass would make five, and add up queries' gradients by atomics, in another order each
time. Where registers do not hold the sums of keys and of values, scores are made a third time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.attention import Attend
from ...compiler.schedule.code import Code, call, tuple_of
from ...compiler.schedule.kernel import Config, GradientKernel, Use
from ...compiler.schedule.tiles import unable
from .attention import BARRIERS, LEAST, Sizes
from .prefill_attention import options

WIDEST = 256  # elements of a head: sums of more leave no registers for scores
STAGES = 2  # steps of a loop in flight

# Of a kind of matrix instruction, by the most columns of a key and a value together: queries of a
# tile and slots of its blocks; queries of the blocks of a tile of slots, and these; whether keys
# and values are summed apart. Larger tiles spilled registers, compiled ahead of time.
TILES = {
    "tcgen05": {256: (128, 64, 64, 128, 0), 384: (128, 64, 32, 128, 0), 512: (64, 32, 32, 128, 1)},
    "wgmma": {
        128: (128, 64, 64, 128, 0),
        256: (128, 64, 32, 128, 0),
        384: (128, 32, 32, 128, 1),
        512: (128, 16, 16, 128, 1),
    },
    "mfma": {256: (64, 32, 32, 64, 0), 384: (64, 32, 32, 32, 1), 512: (64, 16, 32, 32, 1)},
    "": {
        128: (64, 16, 32, 64, 0),
        256: (64, 32, 32, 64, 0),
        384: (64, 16, 32, 32, 0),
        512: (32, 16, 16, 32, 1),
    },
}
SIDES = ("QUERY_M", "QUERY_N", "SLOT_M", "SLOT_N", "APART")


class PrefillAttentionGradients(GradientKernel):
    name = "triton.prefill_attention_gradients"
    differentiates = "triton.prefill_attention"
    functions = ("prefill_attention_gradients",)
    parts = ("query_gradients", "slot_gradients", "attention_tiles")
    of_several = True
    saved = (0, 1)  # the result, and the logarithm of each row's total

    def kept(self, op: Attend, operands: tuple[TensorType, ...]) -> tuple[TensorType, ...]:
        q, *_ = operands
        return (TensorType("float32", q.shape[:3]),)

    def refuses(self, op: Attend, operands: tuple[TensorType, ...], target: Target) -> str | None:
        if reason := unable(operands, target):
            return reason
        sizes = Sizes.of(operands)
        if (widest := max(sizes.k, sizes.v)) > WIDEST:
            return f"a head of {widest} leaves no room for its sums: at most {WIDEST}"
        if next(self.configs(op, operands, 1, target), None) is None:
            return f"no tile fits the shared memory of {target.shared_memory} bytes"
        return None

    def configs(
        self, op: Attend, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        """The largest tiles whose sums registers hold; then blocks half as large, of which a step
        more may be in flight, or half the own rows, so that a processor has two programs: one
        multiplies while the other makes weights of scores."""
        sizes = Sizes.of(operands)
        for sides, stages in _tiles(sizes, target):
            queries, slots, streamed, own, _ = sides
            blocks = (queries, slots), (own, streamed)
            held = max(_held(sizes, *block, stages, target) for block in blocks)
            if held <= target.shared_memory:
                tile = dict(zip(SIDES, sides, strict=True))
                yield Config({**sizes.columns, **tile}, 8 if max(sides) > 64 else 4, stages)

    def key(self, op: Attend, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        return Sizes.of(operands).key

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        tiles = {Sizes.of(use.operands).key: use.tiles[-1][1].options() for use in uses}
        return {"TILES": {key: tiles[key] for key in sorted(tiles)}}

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return options(uses)

    def call(
        self,
        op: Attend,
        q: Code,
        k: Code,
        v: Code,
        positions: Code,
        *others: Code,
        phases: tuple[str, ...],
    ) -> Code:
        *sinks, out, lse, dout = others
        window = None if op.window is None else int(op.window)
        options = window, op.softcap, sinks[0] if sinks else None, None
        wanted = tuple_of(*(True for _ in (q, k, v, *sinks)))
        given = q, k, v, positions, op.scale, True, *options, out, lse, dout, wanted
        return call("prefill_attention_gradients", *given)


def _tiles(sizes: Sizes, target: Target) -> Iterator[tuple[tuple[int, ...], int]]:
    """Sides of the tiles, as `SIDES` names them, and steps in flight."""
    if sizes.bytes > 2:  # exact products: no matrix instruction, and operands twice as large
        yield (LEAST, LEAST, LEAST, LEAST, 0), STAGES
        return
    kind = next(kind for kind in TILES if not kind or kind in target.features)
    columns = sum(sizes.parts) + sizes.value
    best = next(sides for most, sides in TILES[kind].items() if columns <= most)
    queries, slots, streamed, own, apart = best
    yield best, STAGES
    fewer, half = max(slots // 2, LEAST), max(streamed // 2, LEAST)
    yield (queries, fewer, half, own, apart), STAGES
    yield (queries, fewer, half, own, apart), STAGES + 1
    if kind != "tcgen05":  # of which a product of 64 rows leaves half the lanes idle, and spilled
        yield (queries // 2, fewer, streamed, own // 2, apart), STAGES


def _held(sizes: Sizes, own: int, streamed: int, stages: int, target: Target) -> int:
    """Shared memory that a program takes at most: its own rows, blocks in flight, and scores.

    Where matrix instructions read registers, a block passes through them on its way.
    """
    asynchronous = {"wgmma", "tcgen05"} & {*target.features}
    blocks = (stages if asynchronous else stages - 1) * streamed
    rows = blocks + (0 if "mfma" in target.features else own)
    scores = own * streamed * (2 if asynchronous else 1)
    return (rows * (sum(sizes.parts) + sizes.value) + scores) * sizes.bytes + BARRIERS
