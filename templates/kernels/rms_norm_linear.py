"""Linear layers of normed rows: in PyTorch, and in Triton at once where rows are few.

A product of few rows takes as long as its weight is read. Each of its programs norms all rows for
itself: they are small beside its part of the weight, and stay in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from itertools import product
from typing import Any

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.elementwise import GatedActivation
from ...compiler.ops.norm import AddRmsNorm, RmsNorm
from ...compiler.ops.norm_linear import AddRmsNormLinear, RmsNormLinear
from ...compiler.schedule.code import Code, as_code, call
from ...compiler.schedule.kernel import Config, Kernel, Step, Use
from ...compiler.schedule.tiles import power_of_2, unable
from .activations import activations
from .add_rms_norm import TorchAddRmsNorm, TritonAddRmsNorm
from .gated_activation import TorchGatedActivation, TritonGatedActivation, in_pytorch
from .rms_norm import TorchRmsNorm, TritonRmsNorm

FEW = 16  # rows of a call, up to which there is nothing else to do than to wait for the weight
LOAD = 16  # bytes of the widest load
RESERVED = 1024  # bytes of shared memory that each program takes beside its own

NormLinear = RmsNormLinear | AddRmsNormLinear


class TorchRmsNormLinear(Kernel):
    name = "torch.rms_norm_linear"
    implements = "rms_norm_linear"
    functions = ("rms_norm_linear",)

    def cost(
        self, op: NormLinear, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """The norm, the product of normed rows, and the activation, one after another."""
        norm = _normed(op, operands, self.triton)
        x, weight = operands[0], _weight(op, operands)
        y = TensorType(x.dtype, (*x.shape[:-1], *weight.shape[:-1]))
        moved = sum(map(sizes.bytes, (x, weight, y)))
        total = norm.kernel.cost(norm.op, norm.operands, sizes, target)
        total += Cost(op.cost(sizes, *operands).flops, moved, launches=1)
        if op.activation is not None:
            gated, gates = _gated(op, operands)
            kernel: Kernel = TritonGatedActivation() if self.triton else TorchGatedActivation()
            total += kernel.cost(gated, gates, sizes, target)
        return total

    def beside(self, op: NormLinear, operands: tuple[TensorType, ...]) -> Iterator[Step]:
        yield _normed(op, operands, self.triton)
        if self.triton and op.activation is not None:
            yield Step(TritonGatedActivation(), *_gated(op, operands))

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        used = sorted({use.op.activation for use in uses if use.op.activation is not None})
        return {
            "plain": any(isinstance(use.op, RmsNormLinear) for use in uses),
            "added": any(isinstance(use.op, AddRmsNormLinear) for use in uses),
            "offset": any(use.op.offset for use in uses),
            "activations": [(as_code(f), in_pytorch(f), activations("y")[f]) for f in used],
        }

    def call(self, op: NormLinear, *operands: Code, phases: tuple[str, ...]) -> Code:
        count = 3 if isinstance(op, AddRmsNormLinear) else 2
        gain, bias = [*operands[count:], None, None][:2]
        options: dict[str, Any] = {"eps": op.eps, **({"offset": op.offset} if op.offset else {})}
        options |= {} if op.activation is None else {"activation": op.activation}
        options |= {} if bias is None else {"bias": bias}
        return call(op.name, *operands[:count], gain, **options)


class TorchAddRmsNormLinear(TorchRmsNormLinear):
    name = "torch.add_rms_norm_linear"
    implements = "add_rms_norm_linear"
    functions = ("add_rms_norm_linear",)


class TritonRmsNormLinear(TorchRmsNormLinear):
    name = "triton.rms_norm_linear"
    triton = True
    reference = "torch.rms_norm_linear"
    parts = ("few_rows",)
    phases = ("prefill", "decode")
    ladder = (1, FEW)

    def refuses(
        self, op: NormLinear, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        if reason := unable(operands, target):
            return reason
        refusals = (
            step.kernel.refuses(step.op, step.operands, target)
            for step in self.beside(op, operands)
        )
        return next((reason for reason in refusals if reason is not None), None)

    def cost(
        self, op: NormLinear, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """Of few rows, all at once: what is read again stays in the cache."""
        if sizes.rows <= FEW:
            return op.cost(sizes, *operands) + Cost(launches=1)
        return super().cost(op, operands, sizes, target)

    def rungs(self) -> Iterator[tuple[int | None, int]]:
        """Calls of more rows are left to others."""
        yield from ((limit, limit) for limit in self.ladder)

    def configs(
        self, op: NormLinear, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        parts, columns, width = self.key(op, operands)
        of_rows = _of_one if rows == 1 else _of_few
        yield from of_rows(parts, columns, width, BYTES[operands[0].dtype], target)

    def key(self, op: NormLinear, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        """Weights side by side, the rows of each, and their width."""
        *out, width = (axis.size for axis in _weight(op, operands).row)
        parts = 1 if op.activation is None else 2
        return parts, math.prod(out) // parts, width

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        tiles = {
            self.key(use.op, use.operands): {most: config.options() for most, config in use.tiles}
            for use in uses
        }
        return {"TILES": {key: tiles[key] for key in sorted(tiles)}}

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        masked = any(
            self.key(use.op, use.operands)[2] % config.constants["BLOCK_K"]
            for use in uses
            for _, config in use.tiles
        )
        return {**super().values(uses, target), "masked": masked}


class TritonAddRmsNormLinear(TritonRmsNormLinear):
    name = "triton.add_rms_norm_linear"
    implements = "add_rms_norm_linear"
    functions = ("add_rms_norm_linear",)
    reference = "torch.add_rms_norm_linear"


def _weight(op: NormLinear, operands: tuple[TensorType, ...]) -> TensorType:
    return operands[2 if isinstance(op, AddRmsNormLinear) else 1]


def _normed(op: NormLinear, operands: tuple[TensorType, ...], triton: bool) -> Step:
    """The norm by itself."""
    if isinstance(op, AddRmsNormLinear):
        x, residual, _, *gain = operands[:4]
        kernel: Kernel = TritonAddRmsNorm() if triton else TorchAddRmsNorm()
        return Step(kernel, AddRmsNorm(op.eps, op.offset), (x, residual, *gain))
    x, _, *gain = operands[:3]
    kernel = TritonRmsNorm() if triton else TorchRmsNorm()
    return Step(kernel, RmsNorm(op.eps, op.offset), (x, *gain))


def _gated(op: NormLinear, operands: tuple[TensorType, ...]) -> tuple[Any, tuple[TensorType, ...]]:
    """The activation by itself, and its operands."""
    assert op.activation is not None
    y = op.types(*operands)[-1]
    return GatedActivation(op.activation), (y, y)


def _of_one(parts: int, columns: int, width: int, size: int, target: Target) -> Iterator[Config]:
    """A row: warps stand side by side along the weight's rows, so that x is made ready by few
    threads, and once for the rows of a tile. What is in flight is what keeps memory busy: two
    programs of a processor have all of its shared memory, or as much as whole rows take."""
    assert target.triton is not None
    each = LOAD // size * target.triton["warp_size"]
    deep = [warps * each for warps in (4, 2, 8)]
    whole = [block for block in deep if width % block == 0]
    depths = whole or [min(block, max(power_of_2(width), LOAD // size)) for block in deep[:2]]
    # With mfma, loads go through registers: fewer rows at once leave room for more programs.
    copies = "mfma" not in target.features
    for block_k, most in product(depths, (16, 32, 8) if copies else (8, 16, 4)):
        block_n = min(max(most // parts, 1), power_of_2(columns))
        fitting = (target.shared_memory // 2 - RESERVED) // (parts * block_n * block_k * size)
        stages = min(fitting + 1, -(-width // block_k) + 1, 5) if copies else 1
        constants = {"BLOCK_N": block_n, "BLOCK_K": block_k, "STAGES": max(stages, 1)}
        yield Config(constants, min(max(block_k // each, 1), 8))


def _of_few(parts: int, columns: int, width: int, size: int, target: Target) -> Iterator[Config]:
    """Some rows: a matrix instruction's. Columns by which most processors have a program."""
    narrow = size <= 2
    widest = 64 if narrow else 32
    best = widest
    while best > 16 and 4 * -(-columns // best) < 3 * target.processors:
        best //= 2
    others = [n for n in (2 * best, best // 2) if 16 <= n <= widest]
    deep = [128, 64, 256] if narrow else [32, 64]
    whole = [block for block in deep if width % block == 0]
    depths = whole or [min(deep[0], max(power_of_2(width), 16))]
    for block_n, block_k, programs in product((best, *others), depths, (2, 1)):
        step = (parts * block_n + 2 * FEW) * block_k * size
        most = 2 if "mfma" in target.features else 5
        # The step that is computed needs no room of its own.
        stages = min((target.shared_memory // programs - RESERVED) // step + 1, most)
        if stages < 2:
            continue
        constants = {"BLOCK_M": FEW, "BLOCK_N": block_n, "BLOCK_K": block_k}
        yield Config(constants, num_warps=4, num_stages=stages)
