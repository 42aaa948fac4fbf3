"""Rows projected to queries and latents that are appended: in PyTorch, and in Triton at once where
rows are few.

The product's programs store their columns, and the last of a head's goes on with its queries, which
all of its others have left in the cache of the chip.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.dims import product
from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.append import AppendHeads, AppendLatent
from ...compiler.ops.norm_linear import RmsNormLinear
from ...compiler.ops.project import ProjectHeads, ProjectLatent
from ...compiler.schedule.code import Code, call, name
from ...compiler.schedule.kernel import Config, Kernel, Step, Use
from ...compiler.schedule.tiles import power_of_2
from .append_heads import TorchAppendHeads, TritonAppendHeads
from .append_latent import LEAST, TorchAppendLatent, TritonAppendLatent
from .append_quantized_latent import TorchAppendQuantizedLatent, TritonAppendQuantizedLatent
from .rms_norm_linear import (
    FEW,
    RESERVED,
    TorchAddRmsNormLinear,
    TorchRmsNormLinear,
    TritonAddRmsNormLinear,
    TritonRmsNormLinear,
)

COLUMNS = 64  # of a head's weight that are multiplied at a time

CACHES = {  # by what is appended, as the emitted function calls them
    "heads": ("keys", "values"),
    "latent": ("rows",),
    "quantized_latent": ("rest", "numbers", "scales"),
}

Projected = ProjectHeads | ProjectLatent


class TorchProjectLatent(Kernel):
    """Its function is named for what it does: whether rows are added to others, and whether what
    is kept is in float8, which its arguments and results follow from."""

    name = "torch.project_latent"
    implements = "project_latent"
    functions: ClassVar[tuple[str, ...]] = (
        *("project_latent", "add_project_latent"),
        *("project_quantized_latent", "add_project_quantized_latent"),
    )
    phases = ("prefill", "decode")

    def refuses(
        self, op: Projected, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        steps = self.beside(op, operands)
        refusals = (step.kernel.refuses(step.op, step.operands, target) for step in steps)
        return next((reason for reason in refusals if reason is not None), None)

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

    def function(self, op: Projected) -> str:
        added = "add_" if "residual" in op.beside else ""
        return f"{added}project_{_appends(op)}"

    def call(
        self,
        op: Projected,
        *operands: Code,
        phases: tuple[str, ...],
        arrived: Code | None = None,
    ) -> Code:
        given = op.given(*operands)
        del given["positions"]
        first = [given.pop(key) for key in ("x", "residual") if key in given]
        options = {key: given.pop(key) for key in op.beside if key in given}
        options |= {"interleaved": op.interleaved, "row_eps": op.row_eps}
        options |= {} if op.eps is None else {"eps": op.eps}
        if isinstance(op, ProjectLatent) and op.block is not None:
            options |= {"block": int(op.block)}
        offsets = {"row_offset": op.row_offset, "offset": op.offset}
        options |= {key: offset for key, offset in offsets.items() if offset}
        options |= {} if arrived is None else {"arrived": arrived}
        return call(self.function(op), *first, *given.values(), **options)

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        forms = {("residual" in use.op.beside, _appends(use.op)): use.op for use in uses}
        return {
            "forms": [
                (name(self.function(op)), [*map(name, CACHES[kind])], added, len(CACHES[kind]) > 2)
                for (added, kind), op in sorted(forms.items(), key=lambda form: form[0])
            ],
            "added": any(added for added, _ in forms),
            "plain": any(not added for added, _ in forms),
            "appends": [name(f"append_{kind}") for kind in sorted({kind for _, kind in forms})],
            "quantized": any(kind == "quantized_latent" for _, kind in forms),
        }


class TritonProjectLatent(TorchProjectLatent):
    name = "triton.project_latent"
    triton = True
    reference = "torch.project_latent"
    parts: ClassVar[tuple[str, ...]] = ("arrivals", "projected_latent")
    ladder = (1, FEW)

    def refuses(
        self, op: Projected, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        if not target.waits:
            return "a barrier there does not wait for what a program's other waves store"
        return super().refuses(op, operands, target)

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
        first, _ = _steps(op, operands, True)
        own = self.tile(op, operands, target)
        found = list(first.kernel.configs(first.op, first.operands, rows, target))
        if rows == 1 and "bias" in op.beside:
            # Tried: with two steps of a row and a bias, Triton 3.6 spills.
            width = operands[0].row[-1].size
            found.sort(key=lambda config: width <= 2 * config.constants["BLOCK_K"])
        for config in found:
            constants = {"ROWS": 1 if rows == 1 else FEW, "STAGES": 0, **config.constants}
            constants.pop("BLOCK_M", None)  # is ROWS
            yield replace(config, constants={**constants, **own})

    def tile(self, op: Any, operands: tuple[TensorType, ...], target: Target) -> dict[str, int]:
        """Constants of what goes on behind the product. One program has to read all of a head's
        weight: as much of that is on its way as two programs of a processor have room for."""
        _, nope, latent, turned, *_, quantized = self.key(op, operands)
        deep = max(power_of_2(nope), LEAST)
        block = min(max(power_of_2(latent), LEAST), COLUMNS)
        step = (block + LEAST) * deep * BYTES[operands[0].dtype]
        room = target.shared_memory // 2 - RESERVED
        whole = power_of_2(latent)
        return {
            "BLOCK_M": LEAST,
            "BLOCK_L": block,
            "AHEAD": min(max(room // step, 1) + 1, -(-latent // block)),
            "NOPE": deep,
            "LATENT": whole,
            "PAIRS": power_of_2(turned // 2),
            "BLOCK": min(quantized, whole),
        }

    def counters(self, op: Any, operands: tuple[TensorType, ...], target: Target) -> int:
        """One for each head, and one for latents that the product makes."""
        heads: int = op.given(*operands)["head_weight"].row[0].size
        return heads + 1

    def key(self, op: Any, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        given = op.given(*operands)
        x, weight, cos = given["x"], given["weight"], given["cos"]
        sizes = *given["head_weight"].row, cos.row[0] * 2, product(weight.row[:-1]), x.row[0]
        return *(axis.size for axis in sizes), 0 if op.block is None else op.block.size

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        tiles = {
            self.key(use.op, use.operands): {most: config.options() for most, config in use.tiles}
            for use in uses
        }
        return {"TILES": {key: tiles[key] for key in sorted(tiles)}}


def _appends(op: Projected) -> str:
    """What is appended."""
    return op.append.name.removeprefix("append_")


def _steps(op: Projected, operands: tuple[TensorType, ...], triton: bool) -> tuple[Step, Step]:
    """The product and what is appended, each by itself."""
    first, second = op.steps(*operands)
    products: tuple[type[Kernel], ...] = (TorchAddRmsNormLinear, TritonAddRmsNormLinear)
    if isinstance(op.projection, RmsNormLinear):
        products = TorchRmsNormLinear, TritonRmsNormLinear
    kinds: tuple[type[Kernel], ...] = (TorchAppendQuantizedLatent, TritonAppendQuantizedLatent)
    if isinstance(op.append, AppendHeads):
        kinds = TorchAppendHeads, TritonAppendHeads
    elif isinstance(op.append, AppendLatent):
        kinds = TorchAppendLatent, TritonAppendLatent
    return (
        Step(products[triton](), op.projection, first),
        Step(kinds[triton](), op.append, second),
    )
