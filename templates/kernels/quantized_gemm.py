"""Experts in 8 bits in Triton: two grouped products, whose sums are scaled a block after the other.

A step of a product is a block of its weights, so that what it adds has one scale. With activations
in float8, a launch makes x so, and the first product the hidden row, in which its tile has a whole
block of columns.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Any

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.quantized_experts import QuantizedExperts
from ...compiler.schedule.code import Code, as_code
from ...compiler.schedule.kernel import CANDIDATES, Config, Kernel, Use
from ...compiler.schedule.tiles import power_of_2, unable
from .activations import activations
from .grouped_gemm import (
    COUNTED,
    FEW,
    GROUP_M,
    RESERVED,
    TOKENS,
    columns,
    reads_shared,
    roomy,
    unlike,
)
from .quantized_experts import quantized_call


class TritonQuantizedGemm(Kernel):
    name = "triton.quantized_gemm"
    implements = "quantized_experts"
    functions = ("grouped_quantized_experts",)
    triton = True
    reference = "torch.quantized_experts"
    packed = True
    parts = ("choices", "eight_bits")
    ladder = (1, 16, TOKENS, *(64 << n for n in range(7)))

    def refuses(
        self, op: QuantizedExperts, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        if reason := unable(operands, target):
            return reason
        _, width, inner, _ = _sizes(operands)
        if reason := unlike(op, width, inner):
            return reason
        block = op.block.size
        if block < 16 or block != power_of_2(block):
            return f"blocks of {block} are no tiles: they are a power of two from 16 on"
        if op.activations and "fp8" not in target.features:
            return "the target multiplies no numbers of E4M3"
        if any(next(self.configs(op, operands, n, target), None) is None for n in self.ladder):
            return f"no tile fits the shared memory of {target.shared_memory} bytes"
        return None

    def cost(
        self, op: QuantizedExperts, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """The hidden row and the result of each choice are written and read once more, and x where
        it becomes float8."""
        x, index, *_ = operands
        _, width, inner, _ = _sizes(operands)
        hidden = 1 if op.activations else BYTES[x.dtype]
        between = 2 * sizes.count(index) * (inner * hidden + width * BYTES[x.dtype])
        if op.activations:
            between += 2 * sizes.count(x)
        launches = 2 if target.waits else 3
        if sizes.rows > TOKENS:  # a table is made, and the sum stands apart
            launches = 4 if sizes.count(index) <= COUNTED else 5
        launches += op.activations
        return op.cost(sizes, *operands) + Cost(bytes=between, launches=launches)

    def configs(
        self, op: QuantizedExperts, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        """The likely best first, then others that share tiles, steps and stages out otherwise."""
        best, most = _block_m(op, operands, rows), _most_rows(op, operands, target)
        best = min(best, most)
        others = [m for m in (best // 2, 2 * best) if 16 <= m <= most]
        found: list[Config] = []
        for block_m, some in (best, CANDIDATES // 2), *((m, CANDIDATES // 4) for m in others):
            fresh = (c for c in _of_rows(block_m, op, operands, rows, target) if c not in found)
            for config in islice(fresh, some):
                found.append(config)
                yield config

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        tiles = {}
        for use in uses:
            tiles[_sizes(use.operands)] = {most: config.options() for most, config in use.tiles}
        return {
            "TILES": {key: tiles[key] for key in sorted(tiles)},
            "ACTIVATIONS": tuple(sorted({use.op.activation for use in uses})),
        }

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        masked = any(size % use.op.block.size for use in uses for size in _sizes(use.operands)[1:3])
        used = sorted({use.op.activation for use in uses})
        return {
            "masked": masked,
            "described": "tma" in target.features,
            "near": any(use.op.activations for use in uses),
            "decoded": "fp8" not in target.features and any(map(_float8, uses)),
            "activations": [(as_code(key), activations("y")[key]) for key in used],
        }

    def call(self, op: QuantizedExperts, *operands: Code, phases: tuple[str, ...]) -> Code:
        return quantized_call("grouped_quantized_experts", op, operands)


def _float8(use: Use) -> bool:
    return use.operands[3].dtype.startswith("float8")


def _sizes(operands: tuple[TensorType, ...]) -> tuple[int, int, int, int]:
    """Experts, their width and inner width, and how many of them a token has."""
    _, index, _, _, down, *_ = operands
    experts, width, inner = down.row
    return experts.size, width.size, inner.size, index.row[0].size


def _block_m(op: QuantizedExperts, operands: tuple[TensorType, ...], rows: int) -> int:
    """Rows of a tile: as many as an expert that is chosen has on average; of few tokens it takes
    all."""
    experts, _, _, top_k = _sizes(operands)
    if rows <= TOKENS:
        return max(power_of_2(rows), 16)
    return max(power_of_2(-(-rows * (top_k - op.always.size) // (experts - op.always.size))), 16)


def _most_rows(op: QuantizedExperts, operands: tuple[TensorType, ...], target: Target) -> int:
    if op.activations:  # gate and up are as wide as a block, and held in registers
        return 128 if op.block.size <= 128 else 64
    if operands[0].dtype == "float32":
        return 32
    return 128 if roomy(target) else 64


def _of_rows(
    block_m: int,
    op: QuantizedExperts,
    operands: tuple[TensorType, ...],
    rows: int,
    target: Target,
) -> Iterator[Config]:
    """Configurations of tiles of so many rows, the likely best first."""
    experts, width, inner, top_k = _sizes(operands)
    block, item = op.block.size, 1 if op.activations else BYTES[operands[0].dtype]
    tiles = max(min(rows * top_k, experts), rows * top_k // block_m)
    few = block_m <= FEW
    for swapped, turns, share, programs, fewer in product(
        _orders(block_m, item, target),
        _turns(block_m, item, target),
        (1, 2),  # half the tile, where a whole one does not fit
        (1, 2, 3) if few else (1, 2),
        (0, 1),
    ):
        if swapped and turns > 1:
            continue  # tried: it spills
        gate_n, down_n = _widest(block_m, item, swapped, turns, target)
        gate_n = columns(inner, min(block, gate_n // share), tiles, target)
        gate_n = block if op.activations else gate_n
        down_n = columns(width, min(block, down_n // share), tiles, target)
        if swapped and min(gate_n, down_n) < 64:
            continue  # the instruction takes 64 rows, here the weights'
        # Of few rows a processor runs two programs: while one begins or ends, the other still
        # reads. Where it has only one, that one may have all its memory.
        alone = tiles * -(-inner // gate_n) <= target.processors
        if few and not alone and programs == 1:
            continue
        rows_step = block_m * item * block
        weights_step = block * max(2 // turns * gate_n, down_n)
        # What an instruction reads from shared memory is held, and weights that were made wide.
        held = 0
        if swapped or (not few and reads_shared(target)):
            held = rows_step + (weights_step if item == 1 else 0)
        if held and item > 1 and not swapped:
            held += item * block * max(gate_n, down_n)
        step = rows_step + weights_step
        fitting = (target.shared_memory // programs - RESERVED - held) // step + 1
        stages = min(fitting, 6 if few and swapped else 4) - fewer
        if stages < 2:
            continue
        whole = min(block_m, TOKENS)  # so many tokens need no table
        constants = {
            "BLOCK_M": block_m,
            "GATE_N": gate_n,
            "DOWN_N": down_n,
            "GROUP_M": GROUP_M,
            "SORTED": int(whole < rows),
            "SUMMED": int(whole >= rows and target.waits),
            "SWAPPED": int(swapped),
            "TURNS": turns,
        }
        if "tma" in target.features:
            constants["DESCRIBED"] = int(block_m > 16 and math.gcd(width, inner) % 16 == 0)
        # With tcgen05 a thread of four warps has a row of weights, and so the scales of all tokens.
        crowded = op.activations and block_m > 16 and "tcgen05" in target.features
        paired = turns == 2 and block_m == 64  # two programs of four warps have all registers
        warps = 4 if paired or (few and not crowded) else 8
        yield Config(constants, warps, stages)


def _orders(block_m: int, item: int, target: Target) -> tuple[bool, ...]:
    """Whether the weights may be a product's rows, the best first.

    An instruction of 64 rows that reads shared memory then takes weights of a tile that has fewer
    rows than that. In float8 they take no registers on their way; those that are made wide take
    those that they are in, and are not written to shared memory again.
    """
    if item == 4 or not reads_shared(target):
        return (False,)
    return (True, False) if block_m <= FEW else (False, True)


def _turns(block_m: int, item: int, target: Target) -> tuple[int, ...]:
    """In how many loops gate and up are summed, the best first: in one, x is read once.

    Of 128 rows, gate, up and a block's product of one fit registers, as wide as a block each, and a
    second product, which begins before the first is added, does not. So there are two loops: what
    each reads is a third more than it would be in one, and a fifth less than of 64 rows in one.
    """
    if item == 4 or block_m < 64 or not reads_shared(target):
        return (1,)
    if item == 1 and block_m == 128:
        return (2,)
    return (1, 2) if block_m == (64 if item == 1 else 128) and "wgmma" in target.features else (1,)


def _widest(block_m: int, item: int, swapped: bool, turns: int, target: Target) -> tuple[int, int]:
    """Columns of a tile of gate, and as many of up, and of a tile of the other product."""
    if item == 4:
        return 32, 32  # exact products: no matrix instruction, and twice the bytes
    if block_m <= FEW:
        return 64, 128 if swapped and item == 1 else 64
    # Gate, up and a block's product are held in registers.
    whole = turns == 2 or (block_m == 64 and reads_shared(target))
    return 128 if whole else 64 if roomy(target) else 32, 128
