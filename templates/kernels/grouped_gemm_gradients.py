"""The gradients of packed experts in Triton, from their operands alone.

Of the forward's three products (gate, up and down, each 2 N K D F operations) two are made again,
and six more are the gradients': eight thirds of its work. Between them stand, of each choice, rows
of gate and up, whose gradients take their place; of the gradient of h, whose place h takes; and of
its part in the gradient of x: N K (3 F + D) numbers at most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.experts import FusedExperts
from ...compiler.schedule.code import Code, as_code, call, tuple_of
from ...compiler.schedule.kernel import Config, GradientKernel, Use
from ...compiler.schedule.tiles import power_of_2
from .activations import activations, derivatives, in_steps

GROUP_M = 8  # tiles of rows whose programs run together
BLOCK = 1024  # elements of a program between the products: eight for each of its threads
STAGES = 4  # steps of a loop that are in flight at most


class GroupedGemmGradients(GradientKernel):
    name = "triton.grouped_gemm_gradients"
    differentiates = "triton.grouped_gemm"
    functions = ("grouped_experts_gradients",)
    parts = ("grouped_products",)
    ladder = tuple(64 << n for n in range(7))

    def refuses(
        self, op: FusedExperts, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        if op.activation not in derivatives("gate"):
            return f"it has no text for the derivative of {op.activation}"
        if next(self.configs(op, operands, self.ladder[0], target), None) is None:
            return f"no tile fits the shared memory of {target.shared_memory} bytes"
        return None

    def configs(
        self, op: FusedExperts, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        """Tiles of 64 rows where an expert that is chosen has no more on average, else of 128.

        Fewer would save nothing: an expert of less rows than that waits for its weights. Other
        candidates have the other number of rows, or half the columns, in the products with weights
        or in those of gradients' own: they read more, and a processor has two programs, of which
        one multiplies while the other writes.
        """
        _, width, inner, _ = _sizes(operands)
        item = BYTES[operands[0].dtype]
        # An instruction that reads shared memory holds on to the step that it is at.
        held = 0 if {"wgmma", "tcgen05"}.isdisjoint(target.features) else 1
        exact = item == 4
        for block_m, columns, block_d, block_f in _sides(op, operands, rows, target):
            constants = {
                "BLOCK_M": block_m,
                "GATE_N": _whole(columns, 2 * inner),
                "DOWN_N": _whole(columns, inner),
                "BACK_N": _whole(columns, width),
                "BLOCK_D": _whole(block_d, width),
                "BLOCK_F": _whole(block_f, inner),
                "GROUP_M": GROUP_M,
            }
            widest = max(constants[key] for key in ("GATE_N", "DOWN_N", "BACK_N"))
            sides = max(block_m + widest, constants["BLOCK_D"] + constants["BLOCK_F"])
            for block_k in (32, 16) if exact else (64, 32):
                block_k = _whole(block_k, width, inner)
                stages = min(target.shared_memory // (sides * block_k * item) + 1 - held, STAGES)
                if stages > 1:
                    yield Config({**constants, "BLOCK_K": block_k}, 4 if exact else 8, stages)

    def key(self, op: FusedExperts, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        return _sizes(operands)

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        tiles = {}
        for use in uses:
            tiles[_sizes(use.operands)] = {most: config.options() for most, config in use.tiles}
        return {"TILES": {key: tiles[key] for key in sorted(tiles)}}

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        used = sorted({use.op.activation for use in uses})
        texts, slopes = activations("gate"), derivatives("gate")
        return {
            "masked": any(_masked(use) for use in uses),
            "activations": [(as_code(key), texts[key], in_steps(slopes[key])) for key in used],
            "block": BLOCK,
        }

    def call(self, op: FusedExperts, *operands: Code, phases: tuple[str, ...]) -> Code:
        *given, dy = operands
        wanted = tuple_of(*(True,) * 4)
        return call("grouped_experts_gradients", *given, op.activation, dy, wanted)


def _sizes(operands: tuple[TensorType, ...]) -> tuple[int, int, int, int]:
    """Experts, their width and inner width, and how many of them a token has."""
    _, index, _, _, down, *_ = operands
    experts, width, inner = down.row
    return experts.size, width.size, inner.size, index.row[0].size


def _sides(
    op: FusedExperts, operands: tuple[TensorType, ...], rows: int, target: Target
) -> Iterator[tuple[int, int, int, int]]:
    """Rows and columns of tiles of products with weights, and of those of weights' gradients."""
    if BYTES[operands[0].dtype] == 4:  # there is no matrix instruction, and twice the bytes
        yield 32, 32, 32, 32
        return
    experts, _, _, top_k = _sizes(operands)
    average = -(-rows * (top_k - op.always.size) // (experts - op.always.size))
    block_m, other = (64, 128) if average <= 64 else (128, 64)
    # Where the operands pass through registers too, a larger sum leaves no room for them.
    roomy = not {"wgmma", "tcgen05", "mfma"}.isdisjoint(target.features)
    most = 256 if roomy else 128
    yield block_m, most, most, 128
    yield other, most, most, 128
    if roomy:
        yield block_m, 128, most, 128
        yield block_m, most, 128, 128
        yield block_m, 128, 128, 128


def _whole(most: int, *sizes: int) -> int:
    """A tile that divides all sizes, so that nothing needs a mask; else the most."""
    whole = math.gcd(most, *sizes)
    return whole if 2 * whole >= min(most, 64) else min(most, max(power_of_2(max(sizes)), 16))


def _masked(use: Use) -> bool:
    """Whether a size is no multiple of a tile of it."""
    _, width, inner, _ = _sizes(use.operands)
    tiles = {
        "GATE_N": 2 * inner,
        "DOWN_N": inner,
        "BACK_N": width,
        "BLOCK_D": width,
        "BLOCK_F": inner,
        "BLOCK_K": math.gcd(width, inner),
    }
    return any(tiles[key] % config.constants[key] for _, config in use.tiles for key in tiles)
