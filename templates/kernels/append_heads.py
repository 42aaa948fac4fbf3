"""Heads normed, turned and kept in caches: in PyTorch, and in Triton in one launch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.append import AppendHeads
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Config, Kernel, Use
from ...compiler.schedule.tiles import power_of_2, too_wide, unable

TILE = 512  # elements of the heads that one program takes
TURNS, NORMS = 8, 9  # launches of a rotation and of a norm in PyTorch


class TorchAppendHeads(Kernel):
    name = "torch.append_heads"
    implements = "append_heads"
    functions = ("append_heads",)
    parts = ("rows",)
    phases = ("prefill", "decode")

    def cost(
        self, op: AppendHeads, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """Queries and keys step by step, in float32 between the steps; keys and values written."""
        turned = 4 * (sizes.count(operands[0]) + sizes.count(operands[1]))
        between = Cost(bytes=12 * turned, launches=2 * TURNS + 4)
        if op.eps is not None:
            between += Cost(bytes=8 * turned, launches=2 * NORMS)
        return op.cost(sizes, *operands) + between

    def call(
        self,
        op: AppendHeads,
        q: Code,
        k: Code,
        v: Code,
        positions: Code,
        cos: Code,
        sin: Code,
        q_weight: Code | None = None,
        k_weight: Code | None = None,
        *,
        phases: tuple[str, ...],
    ) -> Code:
        gains = {"q_weight": q_weight, "k_weight": k_weight}
        options: dict[str, Any] = {key: gain for key, gain in gains.items() if gain is not None}
        if op.eps is not None:
            options |= {"eps": op.eps, **({"offset": op.offset} if op.offset else {})}
        return call("append_heads", q, k, v, cos, sin, interleaved=op.interleaved, **options)


class TritonAppendHeads(Kernel):
    name = "triton.append_heads"
    implements = "append_heads"
    functions = ("append_heads",)
    triton = True
    reference = "torch.append_heads"
    parts = ("rows",)
    phases = ("prefill", "decode")
    call = TorchAppendHeads.call

    def refuses(
        self, op: AppendHeads, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        return unable(operands, target) or too_wide(operands[0]) or too_wide(operands[2])

    def cost(
        self, op: AppendHeads, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        return op.cost(sizes, *operands) + Cost(launches=1)

    def configs(
        self, op: AppendHeads, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        """Few heads to a program: of one token, all processors are to have some."""
        assert target.triton is not None
        (_, width), (groups, value), pairs = operands[0].row, operands[2].row, operands[4].row[0]
        heads = min(power_of_2(groups.size), max(TILE // power_of_2(width.size), 1))
        rest = width.size - 2 * pairs.size
        columns = {
            "PAIRS": power_of_2(pairs.size),
            "REST": power_of_2(rest) if rest else 0,
            "VALUE": power_of_2(value.size),
        }
        warps = heads * power_of_2(width.size) // (4 * target.triton["warp_size"])
        yield Config({"HEADS": heads, **columns}, num_warps=min(max(warps, 1), 8))

    def key(self, op: AppendHeads, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        q, _, v, _, cos, *_ = operands
        return tuple(axis.size for axis in (*v.row, q.row[1], cos.row[0]))

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        tiles = {self.key(use.op, use.operands): use.tiles[-1][1].options() for use in uses}
        return {"TILES": {key: tiles[key] for key in sorted(tiles)}}
