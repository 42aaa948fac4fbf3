"""The loss of a linear layer in Triton: logits stay in registers."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.loss import LinearCrossEntropy
from ...compiler.schedule.code import Code
from ...compiler.schedule.kernel import Config, Kernel, Use
from ...compiler.schedule.tiles import unable
from .linear_cross_entropy import loss_call

GROUP_M = 8  # tiles of rows whose programs run together
RESERVED = 1024  # bytes of shared memory that each program takes beside its own


class TritonLinearCrossEntropy(Kernel):
    name = "triton.linear_cross_entropy"
    implements = "linear_cross_entropy"
    functions = ("fused_linear_cross_entropy",)
    triton = True
    reference = "torch.linear_cross_entropy"
    parts = ("logits",)
    phases = ("train",)

    def refuses(
        self, op: LinearCrossEntropy, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        return unable(operands, target)

    def cost(
        self,
        op: LinearCrossEntropy,
        operands: tuple[TensorType, ...],
        sizes: Sizes,
        target: Target,
    ) -> Cost:
        """Two numbers of each row and tile are written and read once more."""
        _, weight, targets = operands
        tiles = -(-weight.row[0].size // _tile(op, operands, target)[1])
        between = Cost(bytes=16 * sizes.count(targets) * tiles, launches=2)
        return op.cost(sizes, *operands) + between

    def configs(
        self, op: LinearCrossEntropy, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        """A tile that fills a processor's memory; then two of half its columns at most, so that one
        multiplies while the other makes sums of its logits, or gradients."""
        block_m, block_n, block_k, most = _tile(op, operands, target)
        copied = {"DESCRIBED": 1} if described(operands, target) else {}
        for columns, programs in ((block_n, 1), (min(block_n, 128), 2)):
            step = (block_m + columns) * block_k * BYTES[operands[0].dtype]
            tile = {"BLOCK_M": block_m, "BLOCK_N": columns, "BLOCK_K": block_k}
            stages = max(min((target.shared_memory // programs - RESERVED) // step, most), 2)
            for group, fewer in product((GROUP_M, 2 * GROUP_M), (0, 1)):
                if stages - fewer >= 2:
                    constants = {**tile, "GROUP_M": group, **copied}
                    yield Config(constants, num_warps=8, num_stages=stages - fewer)

    def key(self, op: LinearCrossEntropy, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        return tuple(axis.size for axis in operands[1].row)

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        tiles = {self.key(use.op, use.operands): use.tiles[-1][1].options() for use in uses}
        return {"TILES": {key: tiles[key] for key in sorted(tiles)}}

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        found = [(self.key(use.op, use.operands), use.tiles[-1][1].constants) for use in uses]
        return {
            "masked": any(width % tile["BLOCK_K"] for (_, width), tile in found),
            "described": any(described(use.operands, target) for use in uses),
        }

    def call(self, op: LinearCrossEntropy, *operands: Code, phases: tuple[str, ...]) -> Code:
        return loss_call("fused_linear_cross_entropy", op, operands)


def described(operands: tuple[TensorType, ...], target: Target) -> bool:
    """Whether the GPU copies tiles by itself: from rows of whole 16 bytes, for instructions that
    read shared memory. It frees registers of what they would hold of addresses."""
    size, width = BYTES[operands[0].dtype], operands[1].row[1].size
    return "tma" in target.features and size == 2 and size * width % 16 == 0


def _tile(
    op: LinearCrossEntropy, operands: tuple[TensorType, ...], target: Target
) -> tuple[int, int, int, int]:
    """Rows, columns and depth of a tile, and how many steps of its loop may be in flight."""
    if operands[0].dtype == "float32":
        return 64, 64, 16, 2  # exact products: no matrix instruction, and operands in registers
    words, width = (axis.size for axis in operands[1].row)
    depth = max(math.gcd(width, 64), 32)
    # Where instructions read shared memory, registers have room for the sums of 256 columns, though
    # not for caps as well, nor, of tcgen05, for masks: a thread spilled 64 bytes and more.
    roomy = "wgmma" in target.features or ("tcgen05" in target.features and words % 256 == 0)
    return 128, 256 if roomy and op.softcap is None else 128, depth, 4
