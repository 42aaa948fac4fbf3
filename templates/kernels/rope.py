"""Rotary position embedding: in PyTorch, and in Triton with heads of one token for a program."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.dims import Dim
from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.position import Rope
from ...compiler.schedule.code import Code, call, tuple_of
from ...compiler.schedule.kernel import Config, GradientKernel, Kernel, Use
from ...compiler.schedule.tiles import power_of_2, unable, width

TILE = 4096  # pairs that one program turns at most


class TorchRope(Kernel):
    name = "torch.rope"
    implements = "rope"
    functions = ("rope",)

    def cost(
        self, op: Rope, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """Four products, two sums, a join and a rounding, each of half rows in float32 or all."""
        between = Cost(bytes=(6 * 3 // 2 + 2 + 1) * 4 * sizes.count(operands[0]), launches=8)
        return op.cost(sizes, *operands) + between

    def call(self, op: Rope, x: Code, cos: Code, sin: Code, *, phases: tuple[str, ...]) -> Code:
        return call("rope", x, cos, sin, interleaved=op.interleaved)


class TritonRope(Kernel):
    name = "triton.rope"
    implements = "rope"
    functions = ("rope",)
    triton = True
    reference = "torch.rope"
    call = TorchRope.call

    def refuses(self, op: Rope, operands: tuple[TensorType, ...], target: Target) -> str | None:
        return unable(operands, target)

    def configs(
        self, op: Rope, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        pairs = power_of_2(width(operands[0]) // 2)
        heads = min(power_of_2(_heads(operands[0])), max(TILE // pairs, 1))
        warps = heads * pairs // 256
        for share in (1, 2, 4):
            for times in (1, 2, 0.5):
                count = int(min(max(warps // share, 1), 8) * times)
                if heads >= share and count:
                    yield Config({"HEADS": heads // share, "PAIRS": pairs}, num_warps=count)

    def key(self, op: Rope, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        return _heads(operands[0]), width(operands[0])

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return {
            "TILES": {
                (_heads(use.operands[0]), width(use.operands[0])): use.tiles[-1][1].options()
                for use in uses
            }
        }

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        tiles = [(use, use.tiles[-1][1].constants) for use in uses]
        return {
            "interleaved": any(use.op.interleaved for use in uses),
            "halves": any(not use.op.interleaved for use in uses),
            "masked_heads": any(_heads(use.operands[0]) % t["HEADS"] for use, t in tiles),
            "masked_pairs": any(width(use.operands[0]) != 2 * t["PAIRS"] for use, t in tiles),
        }


class RopeGradients(GradientKernel):
    """The same kernels turn back what comes in, so their text and their tiles serve both."""

    name = "triton.rope_gradients"
    differentiates = "triton.rope"
    functions = ("rope_gradients",)
    constant = ("cos", "sin")
    refuses = TritonRope.refuses

    def call(
        self, op: Rope, x: Code, cos: Code, sin: Code, dy: Code, *, phases: tuple[str, ...]
    ) -> Code:
        wanted = tuple_of(True, False, False)
        return call("rope_gradients", x, cos, sin, op.interleaved, dy, wanted)


def _heads(x: TensorType) -> int:
    """How many heads turn alike: x is [B, T, H, K], or [B, T, K] for one."""
    if len(x.shape) == 3:
        return 1
    axis = x.shape[2]
    assert isinstance(axis, Dim)
    return axis.size
