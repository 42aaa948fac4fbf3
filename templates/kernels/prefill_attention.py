"""Attention of many queries in Triton: tiles of queries, and blocks of slots that stream past."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.attention import Attend
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Config, Kernel, Use
from ...compiler.schedule.tiles import power_of_2
from .attention import LEAST, Sizes, refusal


class TritonPrefillAttention(Kernel):
    name = "triton.prefill_attention"
    implements = "attend"
    functions = ("prefill_attention",)
    triton = True
    reference = "torch.attend"
    phases = ("prefill", "decode")  # its gradients are the reference's, that knows no causal path
    ladder = (16, 64)

    def refuses(self, op: Attend, operands: tuple[TensorType, ...], target: Target) -> str | None:
        if reason := refusal(op, operands, target):
            return reason
        if any(next(self.configs(op, operands, n, target), None) is None for n in self.ladder):
            return f"no tile fits the shared memory of {target.shared_memory} bytes"
        return None

    def configs(
        self, op: Attend, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        sizes = Sizes.of(operands)
        most = _most_queries(sizes)
        block_m = min(max(power_of_2(rows * sizes.group), LEAST), most)
        for block_n, stages in _steps(block_m, target):
            if sizes.held(block_m, block_n, stages, target) <= target.shared_memory:
                constants = {**sizes.columns, "BLOCK_M": block_m, "BLOCK_N": block_n}
                yield Config(constants, _warps(sizes, block_m, target), stages)

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        found = {}
        for use in uses:
            tiles = {most: config.options() for most, config in use.tiles}
            found[Sizes.of(use.operands).key] = tiles
        return {"TILES": {key: found[key] for key in sorted(found)}}

    def call(
        self, op: Attend, q: Code, k: Code, v: Code, positions: Code, *, phases: tuple[str, ...]
    ) -> Code:
        return call("prefill_attention", q, k, v, positions, op.scale)


def _most_queries(sizes: Sizes) -> int:
    """Rows of a tile: as many as a program's registers hold the results of, in float32."""
    if sizes.bytes > 2:
        return 16  # exact products: no matrix instruction, and operands twice as large
    return 128 if sizes.value <= 128 else 64


def _steps(block_m: int, target: Target) -> Iterator[tuple[int, int]]:
    """Slots of a block, and how many blocks are in flight, the best first.

    Scores stay in registers beside the results. Where the operands of products pass through
    registers too, only narrow blocks leave room for them.
    """
    if block_m == 128 and {"wgmma", "tcgen05", "mfma"} & {*target.features}:
        yield from ((64, 3), (64, 2))
    yield from ((32, 3), (32, 2), (16, 2))


def _warps(sizes: Sizes, block_m: int, target: Target) -> int:
    """Warps of a program: a thread holds no more than 64 numbers of the results, where it can."""
    lanes = 1 if target.triton is None else target.triton["warp_size"]
    return 8 if block_m * sizes.value > 64 * 4 * lanes else 4
