"""Rows projected to queries and latents that are appended: in PyTorch, and in Triton at once where
rows are few.

The product's programs store their columns, and the last of a head's goes on with its queries, which
all of its others have left in the cache of the chip.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.project import ProjectHeads, ProjectLatent
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Config, Kernel, Step, Use
from ...compiler.schedule.tiles import power_of_2
from .append_heads import TorchAppendHeads, TritonAppendHeads
from .append_latent import LEAST, TorchAppendLatent, TritonAppendLatent
from .rms_norm_linear import FEW, RESERVED, TorchAddRmsNormLinear, TritonAddRmsNormLinear

COLUMNS = 64  # of a head's weight that are multiplied at a time

Projected = ProjectHeads | ProjectLatent


class TorchProjectLatent(Kernel):
    name = "torch.project_latent"
    implements = "project_latent"
    functions = ("project_latent",)
    phases = ("prefill", "decode")

    def cost(
        self, op: Projected, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """One step after the other."""
        steps = _steps(op, operands, self.triton)
        costs = (step.kernel.cost(step.op, step.operands, sizes, target) for step in steps)
        return sum(costs, Cost())

    def beside(self, op: Projected, operands: tuple[TensorType, ...]) -> Iterator[Step]:
        for step in _steps(op, operands, self.triton):
            yield step
            yield from step.kernel.beside(step.op, step.operands)

    def call(
        self,
        op: Projected,
        *operands: Code,
        phases: tuple[str, ...],
        arrived: Code | None = None,
    ) -> Code:
        given = dict(zip(op.named(len(operands)), operands, strict=True))
        del given["positions"]
        options: dict[str, Any] = {
            key: given.pop(key) for key in ("q_weight", "k_weight") if key in given
        }
        options |= {"interleaved": op.interleaved, "row_eps": op.row_eps}
        options |= {} if op.eps is None else {"eps": op.eps}
        offsets = {"row_offset": op.row_offset, "offset": op.offset}
        options |= {key: offset for key, offset in offsets.items() if offset}
        options |= {} if arrived is None else {"arrived": arrived}
        return call(op.name, *given.values(), **options)


class TritonProjectLatent(TorchProjectLatent):
    name = "triton.project_latent"
    triton = True
    reference = "torch.project_latent"
    parts = ("arrivals", "projected_latent")
    ladder = (1, FEW)

    def refuses(
        self, op: Projected, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        if not target.waits:
            return "a barrier there does not wait for what a program's other waves store"
        steps = self.beside(op, operands)
        refusals = (step.kernel.refuses(step.op, step.operands, target) for step in steps)
        return next((reason for reason in refusals if reason is not None), None)

    def cost(
        self, op: Projected, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """Of few rows, all at once."""
        if sizes.rows <= FEW:
            return op.cost(sizes, *operands) + Cost(launches=1)
        return super().cost(op, operands, sizes, target)

    def rungs(self) -> Iterator[tuple[int | None, int]]:
        """Calls of more rows are left to others."""
        yield from ((limit, limit) for limit in self.ladder)

    def configs(
        self, op: Projected, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        """Those of the product, and what is appended with them."""
        product, _ = _steps(op, operands, True)
        own = self.appended(op, operands, target)
        for config in product.kernel.configs(product.op, product.operands, rows, target):
            constants = {"ROWS": 1 if rows == 1 else FEW, "STAGES": 0, **config.constants}
            constants.pop("BLOCK_M", None)  # is ROWS
            yield replace(config, constants={**constants, **own})

    def appended(self, op: Any, operands: tuple[TensorType, ...], target: Target) -> dict[str, int]:
        """Constants of what goes on behind the product. One program has to read all of a head's
        weight: as much of that is on its way as two programs of a processor have room for."""
        _, nope, latent, turned, _ = self.key(op, operands)
        deep = max(power_of_2(nope), LEAST)
        block = min(max(power_of_2(latent), LEAST), COLUMNS)
        step = (block + LEAST) * deep * BYTES[operands[0].dtype]
        room = target.shared_memory // 2 - RESERVED
        return {
            "BLOCK_M": LEAST,
            "BLOCK_L": block,
            "AHEAD": min(max(room // step, 1) + 1, -(-latent // block)),
            "NOPE": deep,
            "LATENT": power_of_2(latent),
            "PAIRS": power_of_2(turned // 2),
        }

    def counters(self, op: Any, operands: tuple[TensorType, ...], target: Target) -> int:
        """One for each head, and one for the latents."""
        return operands[4].row[0].size + 1

    def key(self, op: Any, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        x, head_weight, cos = operands[0], operands[4], operands[6]
        sizes = *head_weight.row, cos.row[0] * 2, x.row[0]
        return tuple(axis.size for axis in sizes)

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        tiles = {
            self.key(use.op, use.operands): {most: config.options() for most, config in use.tiles}
            for use in uses
        }
        return {"TILES": {key: tiles[key] for key in sorted(tiles)}}


def _steps(op: Projected, operands: tuple[TensorType, ...], triton: bool) -> tuple[Step, Step]:
    """The product and what is appended, each by itself."""
    product: Kernel = TritonAddRmsNormLinear() if triton else TorchAddRmsNormLinear()
    kinds: tuple[type[Kernel], ...] = (TorchAppendHeads, TritonAppendHeads)
    if isinstance(op, ProjectLatent):
        kinds = TorchAppendLatent, TritonAppendLatent
    first = Step(product, op.projection, operands[:4])
    return first, Step(kinds[triton](), op.append, op.parts(*operands))
