"""Experts in 8 bits in Triton: two grouped products, whose sums are scaled a block after the other.

A step of a product is a block of its weights, so that what it adds has one scale. With activations
in float8, a launch makes x so, and the first product the hidden row, in which its tile has a whole
block of columns.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.quantized_experts import QuantizedExperts
from ...compiler.schedule.code import Code, as_code
from ...compiler.schedule.kernel import Config, Kernel, Use
from ...compiler.schedule.tiles import power_of_2, unable
from .activations import activations
from .grouped_gemm import COUNTED, unlike
from .quantized_experts import quantized_call

GROUP_M = 8  # tiles of rows whose programs run together
FEW = 32  # rows of a tile that waits for weights, not for its products


class TritonQuantizedGemm(Kernel):
    name = "triton.quantized_gemm"
    implements = "quantized_experts"
    functions = ("grouped_quantized_experts",)
    triton = True
    reference = "torch.quantized_experts"
    packed = True
    parts = ("choices", "eight_bits")
    ladder = (1, 16, *(64 << n for n in range(7)))

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
        most = next((n for n in self.ladder if sizes.rows <= n), 4 * self.ladder[-1])
        launches = 3 + op.activations
        if sizes.rows > _block_m(op, operands, most, target):  # a table is made
            launches += 1 if sizes.count(index) <= COUNTED else 2
        return op.cost(sizes, *operands) + Cost(bytes=between, launches=launches)

    def configs(
        self, op: QuantizedExperts, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        experts, width, inner, top_k = _sizes(operands)
        block, item = op.block.size, BYTES[operands[0].dtype]
        best = _block_m(op, operands, rows, target)
        for block_m in (n for n in (128, 64, 32, 16) if n <= best):
            tiles = max(min(rows * top_k, experts), rows * top_k // block_m)
            widest = 32 if item == 4 and not op.activations else 64 if block_m <= FEW else 128
            narrow = 32 if block_m > FEW and not _roomy(target) else 64
            gate_n = min(block, narrow)
            gate_n = block if op.activations else _columns(inner, gate_n, tiles, target)
            down_n = _columns(width, min(block, widest), tiles, target)
            given = block_m * (1 if op.activations else item)
            step = block * (given + max(2 * gate_n, down_n))
            few = block_m <= FEW
            # Of few rows a processor runs two programs: while one begins, the other still reads.
            room = target.shared_memory // (2 if few else 1)
            # An instruction that reads shared memory holds on to the step that it is at.
            held = 0 if few or "wgmma" not in target.features else 1
            # Tried: of few rows in float8, more steps in flight spill a register.
            stages = min(room // step + 1 - held, 2 if few and op.activations else 4)
            if stages < 2:
                continue
            constants = {
                "BLOCK_M": block_m,
                "GATE_N": gate_n,
                "DOWN_N": down_n,
                "GROUP_M": GROUP_M,
            }
            yield Config(constants, 4 if few else 8, stages)

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
            "near": any(use.op.activations for use in uses),
            "decoded": any(_decoded(use) for use in uses),
            "activations": [(as_code(key), activations("y")[key]) for key in used],
        }

    def call(self, op: QuantizedExperts, *operands: Code, phases: tuple[str, ...]) -> Code:
        return quantized_call("grouped_quantized_experts", op, operands)


def _decoded(use: Use) -> bool:
    """Whether float8 is made wide by the kernel: not all targets have an instruction for it."""
    return not use.op.activations and use.operands[3].dtype != "int8"


def _sizes(operands: tuple[TensorType, ...]) -> tuple[int, int, int, int]:
    """Experts, their width and inner width, and how many of them a token has."""
    _, index, _, _, down, *_ = operands
    experts, width, inner = down.row
    return experts.size, width.size, inner.size, index.row[0].size


def _block_m(
    op: QuantizedExperts, operands: tuple[TensorType, ...], rows: int, target: Target
) -> int:
    """Rows of a tile: as many as an expert that is chosen has on average; of few tokens it takes
    all."""
    experts, _, _, top_k = _sizes(operands)
    # Tried: with more, registers are spilled. A block's product stands beside the sums, and gate
    # and up are as wide as a block where the hidden row becomes float8.
    most = 128 if _roomy(target) and not op.activations else 64
    if operands[0].dtype == "float32" and not op.activations:
        most = 32
    average = -(-rows * (top_k - op.always.size) // (experts - op.always.size))
    return 16 if rows <= 16 else min(max(power_of_2(average), 16), most)


def _roomy(target: Target) -> bool:
    """Whether sums leave registers free: operands need none, or sums have some of their own."""
    return not {"wgmma", "tcgen05", "mfma"}.isdisjoint(target.features)


def _columns(size: int, most: int, tiles: int, target: Target) -> int:
    """Columns of a tile: fewer where an eighth of the processors would have no program."""
    block = min(most, max(power_of_2(size), 16))
    while block > 32 and 8 * tiles * -(-size // block) < 7 * target.processors:
        block //= 2
    return block
