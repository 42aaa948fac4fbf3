"""Packed experts in Triton: two grouped matrix products, with tiles by the rows that an expert has.

Between them stand each choice's hidden row and result; nothing depends on values on the host.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import islice, product
from typing import Any

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.experts import ExpertsOp, FusedExperts
from ...compiler.schedule.code import Code, as_code, call
from ...compiler.schedule.kernel import Config, Kernel, Use
from ...compiler.schedule.tiles import power_of_2, unable
from .activations import activations

GROUP_M = 8  # tiles of rows whose programs run together
LARGEST = 2**31  # elements of one expert, which are counted in 32 bits
TOKENS = 32  # of a call that needs no table: all fit one tile of each expert
COUNTED = 4096  # choices, up to which a table is made in one launch
FEW = 32  # rows of a tile that waits for weights, not for its products
RESERVED = 1024  # bytes of shared memory that each program takes beside its own
SHORT_LIST = 24  # configurations that are worth their measuring


class TritonGroupedGemm(Kernel):
    name = "triton.grouped_gemm"
    implements = "fused_experts"
    functions = ("grouped_experts",)
    triton = True
    reference = "torch.fused_experts"
    packed = True
    parts = ("choices",)
    ladder = (1, 16, TOKENS, *(64 << n for n in range(7)))

    def refuses(
        self, op: FusedExperts, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        if reason := unable(operands, target):
            return reason
        if len(operands) > 3 + op.matrices:
            return "it adds no biases to the experts' products"
        _, width, inner, _ = _sizes(operands)
        if reason := unlike(op, width, inner):
            return reason
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
        launches = 2 if target.waits else 3
        if sizes.rows > TOKENS:  # a table is made, and the sum stands apart
            launches = 4 if sizes.count(index) <= COUNTED else 5
        return op.cost(sizes, *operands) + Cost(bytes=between, launches=launches)

    def configs(
        self, op: FusedExperts, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        """The likely best first, then others that share tiles, steps and stages out otherwise."""
        best = _block_m(op, operands, rows)
        others = [m for m in (best // 2, 2 * best) if 16 <= m <= _most_rows(operands)]
        found: list[Config] = []
        for block_m, some in (best, SHORT_LIST // 2), *((m, SHORT_LIST // 4) for m in others):
            fresh = (c for c in _of_rows(block_m, operands, rows, target) if c not in found)
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
        masked = any(
            size % config.constants["BLOCK_K"]
            for use in uses
            for size in _sizes(use.operands)[1:3]
            for _, config in use.tiles
        )
        described = "tma" in target.features
        used = sorted({use.op.activation for use in uses})
        named = [(as_code(key), activations("y")[key]) for key in used]
        return {"masked": masked, "described": described, "activations": named}

    def call(self, op: FusedExperts, *operands: Code, phases: tuple[str, ...]) -> Code:
        return call("grouped_experts", *operands, activation=op.activation)


def unlike(op: ExpertsOp, width: int, inner: int) -> str | None:
    """Why experts so wide are not two grouped products with an activation between, or None."""
    if not op.plain:
        return "between an expert's products it computes activation(gate) * up and no more"
    if op.activation not in activations("y"):
        return f"it has no text for the activation {op.activation}"
    if 2 * inner * width >= LARGEST:
        return f"an expert of {inner} by {width} is too large to count in 32 bits"
    return None


def _sizes(operands: tuple[TensorType, ...]) -> tuple[int, int, int, int]:
    """Experts, their width and inner width, and how many of them a token has."""
    _, index, _, _, down = operands
    experts, width, inner = down.row
    return experts.size, width.size, inner.size, index.row[0].size


def _block_m(op: FusedExperts, operands: tuple[TensorType, ...], rows: int) -> int:
    """Rows of a tile: as many as an expert that is chosen has on average; of few tokens it takes
    all."""
    experts, _, _, top_k = _sizes(operands)
    if rows <= TOKENS:
        return max(power_of_2(rows), 16)
    average = -(-rows * (top_k - op.always.size) // (experts - op.always.size))
    return min(max(power_of_2(average), 16), _most_rows(operands))


def _most_rows(operands: tuple[TensorType, ...]) -> int:
    return 32 if operands[0].dtype == "float32" else 128


def _of_rows(
    block_m: int, operands: tuple[TensorType, ...], rows: int, target: Target
) -> Iterator[Config]:
    """Configurations of tiles of so many rows, the likely best first."""
    experts, width, inner, top_k = _sizes(operands)
    tiles = max(min(rows * top_k, experts), rows * top_k // block_m)
    few = block_m <= FEW
    widest = _widest(block_m, operands, target)
    # Tried: else a register is spilled, since small tiles are compiled for many at a time.
    spare = not few or roomy(target)
    # Of few rows a processor runs two programs: while one begins or ends, the other still reads.
    for swapped, share, block_k, programs, fewer in product(
        _orders(block_m, operands, target),
        (1, 2),  # half the tile, where a whole one does not fit
        _depths(block_m, operands, target),
        (2, 3) if few else (1, 2),
        (0, 1),
    ):
        block_n = max(widest // share, 16)
        gate_n = columns(inner, block_n, tiles, target)
        down_n = columns(width, (2 if spare else 1) * block_n, tiles, target)
        if swapped and min(gate_n, down_n) < 64:
            continue  # the instruction takes 64 rows, here the weights'
        block_k = _divisor(block_k, width, inner)
        step = (block_m + max(2 * gate_n, down_n)) * block_k * BYTES[operands[0].dtype]
        # An instruction that reads shared memory holds on to the step that it is at.
        held = 1 if reads_shared(target) and (swapped or not few) else 0
        most = 3 if not spare else 5 if swapped else 4
        fitting = (target.shared_memory // programs - RESERVED) // step + 1 - held
        stages = min(fitting, most) - fewer
        if stages < 2:
            continue
        alone = min(block_m, TOKENS)  # so many tokens need no table
        constants = {
            "BLOCK_M": block_m,
            "BLOCK_K": block_k,
            "GATE_N": gate_n,
            "DOWN_N": down_n,
            "GROUP_M": GROUP_M,
            "SORTED": int(alone < rows),
            "SUMMED": int(alone >= rows and target.waits),
            "SWAPPED": int(swapped),
        }
        if "tma" in target.features:
            constants["DESCRIBED"] = int(_describes(block_m, operands))
        yield Config(constants, _warps(block_m, target), stages)


def _orders(block_m: int, operands: tuple[TensorType, ...], target: Target) -> tuple[bool, ...]:
    """Whether the weights may be a product's rows, the best first.

    An instruction of 64 rows that reads shared memory then takes weights of a tile that has fewer
    rows than that. Up to 16 rows nothing is won: a processor waits for weights either way, of
    which it has as many in flight without a step that is held.
    """
    if block_m > FEW or not reads_shared(target) or BYTES[operands[0].dtype] != 2:
        return (False,)
    return (False, True) if block_m == 16 else (True, False)


def _describes(block_m: int, operands: tuple[TensorType, ...]) -> bool:
    """Whether the GPU copies tiles of weights by itself, from rows of whole 16 bytes.

    That frees registers and instructions, which tiles up to 16 rows do not lack, for some
    microseconds of the host's in each call.
    """
    _, width, inner, _ = _sizes(operands)
    size = BYTES[operands[0].dtype]
    return size == 2 and block_m > 16 and size * math.gcd(width, inner) % 16 == 0


def _widest(block_m: int, operands: tuple[TensorType, ...], target: Target) -> int:
    """Columns of a tile of gate and as many of up, which both are held in registers."""
    if operands[0].dtype == "float32":
        return 32  # exact products: no matrix instruction, and twice the bytes
    if block_m <= FEW:
        return 64
    # Where the operands pass through registers too, two such sums leave no room for them.
    return 128 if block_m <= 64 or roomy(target) else 64


def _depths(block_m: int, operands: tuple[TensorType, ...], target: Target) -> tuple[int, ...]:
    """How much of its rows a step may take, the best first."""
    if operands[0].dtype == "float32":
        return (32, 16)
    return (128, 64, 32) if block_m == 16 and reads_shared(target) else (64, 32)


def _warps(block_m: int, target: Target) -> int:
    return 4 if block_m <= (64 if roomy(target) else FEW) else 8


def reads_shared(target: Target) -> bool:
    """Whether matrix instructions of 64 rows read their operands from shared memory."""
    return not {"wgmma", "tcgen05"}.isdisjoint(target.features)


def roomy(target: Target) -> bool:
    """Whether sums leave registers free: operands need none, or sums have some of their own."""
    return reads_shared(target) or "mfma" in target.features


def columns(size: int, most: int, tiles: int, target: Target) -> int:
    """Columns of a tile: fewer where an eighth of the processors would have no program."""
    block = min(most, max(power_of_2(size), 16))
    while block > 32 and 8 * tiles * -(-size // block) < 7 * target.processors:
        block //= 2
    return block


def _divisor(most: int, *sizes: int) -> int:
    """A tile that divides all sizes, so that no read needs a mask; else the most."""
    whole = math.gcd(most, *sizes)
    return whole if whole >= min(most, 32) else min(most, max(power_of_2(max(sizes)), 16))
