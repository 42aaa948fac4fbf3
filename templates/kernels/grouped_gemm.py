"""Packed experts in Triton: two grouped matrix products, with tiles by the rows that an expert has.

Between them stand each choice's hidden row and result; nothing depends on values on the host.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.experts import FusedExperts
from ...compiler.schedule.code import Code, as_code, call
from ...compiler.schedule.kernel import Config, Kernel, Use
from ...compiler.schedule.tiles import power_of_2, unable
from .activations import activations

GROUP_M = 8  # tiles of rows whose programs run together
LARGEST = 2**31  # elements of one expert, which are counted in 32 bits
FEW = 32  # rows of a tile that waits for weights, not for its products


class TritonGroupedGemm(Kernel):
    name = "triton.grouped_gemm"
    implements = "fused_experts"
    functions = ("grouped_experts",)
    triton = True
    reference = "torch.fused_experts"
    packed = True
    ladder = (1, 16, *(64 << n for n in range(7)))

    def refuses(
        self, op: FusedExperts, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        if reason := unable(operands, target):
            return reason
        if len(operands) > 3 + op.matrices:
            return "it adds no biases to the experts' products"
        if not op.plain:
            return "between an expert's products it computes activation(gate) * up and no more"
        if op.activation not in activations("y"):
            return f"it has no text for the activation {op.activation}"
        _, width, inner, _ = _sizes(operands)
        if 2 * inner * width >= LARGEST:
            return f"an expert of {inner} by {width} is too large to count in 32 bits"
        if any(next(self.configs(op, operands, n, target), None) is None for n in self.ladder):
            return f"no tile fits the shared memory of {target.shared_memory} bytes"
        return None

    def cost(
        self, op: FusedExperts, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """The hidden row and the result of each choice are written and read once more."""
        x, index, *_ = operands
        _, width, inner, _ = _sizes(operands)
        between = 2 * sizes.count(index) * (inner + width) * BYTES[x.dtype]
        most = next((n for n in self.ladder if sizes.rows <= n), 4 * self.ladder[-1])
        sorted_first = sizes.rows > _block_m(op, operands, most)
        launches = Cost(bytes=between, launches=4 if sorted_first else 3)
        return op.cost(sizes, *operands) + launches

    def configs(
        self, op: FusedExperts, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        experts, width, inner, top_k = _sizes(operands)
        block_m = _block_m(op, operands, rows)
        tiles = max(min(rows * top_k, experts), rows * top_k // block_m)
        widest = _widest(block_m, operands, target)
        depths = _depths(block_m, operands, target)
        # Tried: else a register is spilled, since small tiles are compiled for many at a time.
        spare = block_m > FEW or _roomy(target)
        for share in (1, 2):  # half the tile, where a whole one does not fit
            block_n = max(widest // share, 16)
            gate_n = _columns(inner, block_n, tiles, target)
            down_n = _columns(width, (2 if spare else 1) * block_n, tiles, target)
            for block_k in depths:
                block_k = _divisor(block_k, width, inner)
                step = (block_m + max(2 * gate_n, down_n)) * block_k * BYTES[operands[0].dtype]
                stages = _stages(4 if spare else 3, step, block_m, target)
                if stages is None:
                    continue
                constants = {
                    "BLOCK_M": block_m,
                    "BLOCK_K": block_k,
                    "GATE_N": gate_n,
                    "DOWN_N": down_n,
                    "GROUP_M": GROUP_M,
                }
                yield Config(constants, _warps(block_m, target), stages)

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        tiles = {}
        for use in uses:
            tiles[_sizes(use.operands)] = {most: config.options() for most, config in use.tiles}
        return {
            "TILES": {key: tiles[key] for key in sorted(tiles)},
            "ACTIVATIONS": tuple(sorted({use.op.activation for use in uses})),
        }

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        masked = any(
            size % config.constants["BLOCK_K"]
            for use in uses
            for size in _sizes(use.operands)[1:3]
            for _, config in use.tiles
        )
        used = sorted({use.op.activation for use in uses})
        named = [(as_code(key), activations("y")[key]) for key in used]
        return {"masked": masked, "activations": named}

    def call(self, op: FusedExperts, *operands: Code, phases: tuple[str, ...]) -> Code:
        return call("grouped_experts", *operands, activation=op.activation)


def _sizes(operands: tuple[TensorType, ...]) -> tuple[int, int, int, int]:
    """Experts, their width and inner width, and how many of them a token has."""
    _, index, _, _, down = operands
    experts, width, inner = down.row
    return experts.size, width.size, inner.size, index.row[0].size


def _block_m(op: FusedExperts, operands: tuple[TensorType, ...], rows: int) -> int:
    """Rows of a tile: as many as an expert that is chosen has on average; of few tokens it takes
    all."""
    experts, _, _, top_k = _sizes(operands)
    most = 32 if operands[0].dtype == "float32" else 128
    average = -(-rows * (top_k - op.always.size) // (experts - op.always.size))
    return 16 if rows <= 16 else min(max(power_of_2(average), 16), most)


def _widest(block_m: int, operands: tuple[TensorType, ...], target: Target) -> int:
    """Columns of a tile of gate and as many of up, which both are held in registers."""
    if operands[0].dtype == "float32":
        return 32  # exact products: no matrix instruction, and twice the bytes
    if block_m <= FEW:
        return 64
    # Where the operands pass through registers too, two such sums leave no room for them.
    return 128 if block_m <= 64 or _roomy(target) else 64


def _depths(block_m: int, operands: tuple[TensorType, ...], target: Target) -> tuple[int, ...]:
    """How much of its rows a step may take, the best first."""
    if operands[0].dtype == "float32":
        return (32, 16)
    return (128, 64, 32) if block_m <= FEW and _reads_shared(target) else (64, 32)


def _warps(block_m: int, target: Target) -> int:
    return 4 if block_m <= (64 if _roomy(target) else FEW) else 8


def _reads_shared(target: Target) -> bool:
    """Whether matrix instructions of 64 rows read their operands from shared memory."""
    return not {"wgmma", "tcgen05"}.isdisjoint(target.features)


def _roomy(target: Target) -> bool:
    """Whether sums leave registers free: operands need none, or sums have some of their own."""
    return _reads_shared(target) or "mfma" in target.features


def _columns(size: int, most: int, tiles: int, target: Target) -> int:
    """Columns of a tile: fewer where an eighth of the processors would have no program."""
    block = min(most, max(power_of_2(size), 16))
    while block > 32 and 8 * tiles * -(-size // block) < 7 * target.processors:
        block //= 2
    return block


def _divisor(most: int, *sizes: int) -> int:
    """A tile that divides all sizes, so that no read needs a mask; else the most."""
    whole = math.gcd(most, *sizes)
    return whole if whole >= min(most, 32) else min(most, max(power_of_2(max(sizes)), 16))


def _stages(most: int, step: int, block_m: int, target: Target) -> int | None:
    """How many steps of the loop may be in flight, or None where two do not fit."""
    # Of few rows a processor runs two programs: while one begins or ends, the other still reads.
    room = target.shared_memory // 2 if block_m <= FEW else target.shared_memory
    # An instruction that reads shared memory holds on to the step that it is at.
    held = 1 if _reads_shared(target) and block_m > FEW else 0
    fitting = [n for n in range(most, 1, -1) if (n - 1 + held) * step <= room]
    return fitting[0] if fitting else None
