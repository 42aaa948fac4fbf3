"""Rows of heads times their heads' weights in Triton: few rows, which stay rows of all heads."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.linear import Einsum
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Config, Kernel, Use
from ...compiler.schedule.tiles import power_of_2, unable

LEAST = 16  # a matrix instruction takes no fewer of any axis
FORM = re.compile(r"(..)(.)(.),\2(.)\3->\1\2\4")


class TritonHeadProduct(Kernel):
    name = "triton.head_product"
    implements = "einsum"
    functions = ("head_product",)
    triton = True
    parts = ("products",)
    phases = ("decode",)
    ladder = (16, 32)

    def refuses(self, op: Einsum, operands: tuple[TensorType, ...], target: Target) -> str | None:
        if not FORM.fullmatch(op.equation):
            return "it multiplies each head [.., D] with its own weight [K, D]"
        return unable(operands, target)

    def cost(
        self, op: Einsum, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """No more than the op: PyTorch's product has the heads first, and is copied by what reads
        all heads of a token as one row."""
        return op.cost(sizes, *operands) + Cost(launches=1)

    def configs(
        self, op: Einsum, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        """Of few rows, as many tiles of the heads' weights as there are processors, or more."""
        heads, out, inner = (axis.size for axis in operands[1].row)
        narrow = BYTES[operands[0].dtype] <= 2
        block_n = min(max(power_of_2(out), LEAST), 64 if narrow else 32)
        while block_n > LEAST and heads * -(-out // block_n) < target.processors:
            block_n //= 2
        for columns in (block_n, max(block_n // 2, LEAST), min(2 * block_n, 64 if narrow else 32)):
            for stages in (2,) if "mfma" in target.features else (4, 3):
                constants = {
                    "BLOCK_M": min(max(power_of_2(rows), LEAST), 64 if narrow else 32),
                    "BLOCK_N": columns,
                    "BLOCK_K": min(max(power_of_2(inner), LEAST), 64 if narrow else 32),
                }
                yield Config(constants, num_warps=4, num_stages=stages)

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        tiles = {
            tuple(axis.size for axis in use.operands[1].row): {
                most: config.options() for most, config in use.tiles
            }
            for use in uses
        }
        return {"TILES": {key: tiles[key] for key in sorted(tiles)}}

    def call(self, op: Einsum, x: Code, weight: Code, *, phases: tuple[str, ...]) -> Code:
        return call("head_product", x, weight)
