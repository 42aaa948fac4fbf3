"""A query absorbed and a latent row kept: in PyTorch, and in Triton in one launch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.op import Op
from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.append import AppendLatent, AppendQuantizedLatent
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Config, Kernel, Use
from ...compiler.schedule.tiles import power_of_2, too_wide, unable

LEAST = 16  # a matrix instruction takes no fewer of any axis
STEPS = 30  # launches of a product, two rotations, a norm, what joins them and what is written


class TorchAppendLatent(Kernel):
    name = "torch.append_latent"
    implements = "append_latent"
    functions = ("append_latent",)
    parts: ClassVar[tuple[str, ...]] = ("rows",)
    phases = ("prefill", "decode")

    def cost(self, op: Op, operands: tuple[TensorType, ...], sizes: Sizes, target: Target) -> Cost:
        """Step by step: queries are written, read and written again, what is turned in float32."""
        _, turned, _, latent, key, *_ = operands
        q, *_ = op.types(*operands)
        steps = 2 * sizes.bytes(q) + 4 * sum(
            times * sizes.count(x) for times, x in ((12, turned), (12, key), (8, latent))
        )
        return op.cost(sizes, *operands) + Cost(bytes=steps, launches=STEPS)

    def call(
        self,
        op: AppendLatent | AppendQuantizedLatent,
        q_nope: Code,
        q_rope: Code,
        weight: Code,
        latent: Code,
        k_rope: Code,
        positions: Code,
        cos: Code,
        sin: Code,
        gain: Code | None = None,
        *,
        phases: tuple[str, ...],
    ) -> Code:
        options: dict[str, Any] = {} if gain is None else {"gain": gain}
        if isinstance(op, AppendQuantizedLatent):
            options |= {"block": int(op.block)}
        options |= {"eps": op.eps, **({"offset": op.offset} if op.offset else {})}
        operands = q_nope, q_rope, weight, latent, k_rope, cos, sin
        return call(self.functions[0], *operands, interleaved=op.interleaved, **options)


class TritonAppendLatent(Kernel):
    name = "triton.append_latent"
    implements = "append_latent"
    functions = ("append_latent",)
    triton = True
    reference = "torch.append_latent"
    parts: ClassVar[tuple[str, ...]] = ("rows", "products", "absorbed")
    phases = ("prefill", "decode")
    ladder = (16, 32)
    call = TorchAppendLatent.call

    def refuses(self, op: Any, operands: tuple[TensorType, ...], target: Target) -> str | None:
        return unable(operands, target) or too_wide(operands[3])

    def cost(self, op: Op, operands: tuple[TensorType, ...], sizes: Sizes, target: Target) -> Cost:
        return op.cost(sizes, *operands) + Cost(launches=1)

    def configs(
        self, op: Any, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        """Of few tokens, as many tiles of the heads' weights as there are processors, or more."""
        q_nope, q_rope, weight, *_ = operands
        heads, nope, latent = (axis.size for axis in weight.row)
        narrow = BYTES[q_nope.dtype] <= 2
        block_m = min(max(power_of_2(rows), LEAST), 64 if narrow else 32)
        most = min(max(power_of_2(latent), LEAST), 128 if narrow else 32)
        block_n = max(most, 1)
        while block_n > 32 and heads * -(-latent // block_n) < target.processors:
            block_n //= 2
        yield Config(
            {
                "BLOCK_M": block_m,
                "BLOCK_N": block_n,
                "BLOCK_K": min(max(power_of_2(nope), LEAST), 64 if narrow else 32),
                "LATENT": power_of_2(latent),
                "PAIRS": power_of_2(q_rope.row[1].size // 2),
            },
            num_warps=4,
            num_stages=2,
        )

    def key(self, op: Any, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        _, q_rope, weight, *_ = operands
        return tuple(axis.size for axis in (*weight.row, q_rope.row[1]))

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        tiles = {
            self.key(use.op, use.operands): {most: config.options() for most, config in use.tiles}
            for use in uses
        }
        return {"TILES": {key: tiles[key] for key in sorted(tiles)}}
