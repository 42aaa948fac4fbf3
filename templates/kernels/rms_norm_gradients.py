"""Gradients of RMS norms in Triton: whole rows for a program that stays, read once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.norm import RmsNorm
from ...compiler.schedule.code import Code, as_code, call, name, tuple_of
from ...compiler.schedule.kernel import Config, GradientKernel, Use
from ...compiler.schedule.tiles import by_width, masked, power_of_2, unable, width

WIDEST = 8192  # elements of a row: of 16384, a program spills registers on many targets
TILE = 4096  # elements of a program that takes several rows
EACH = 16  # elements of a thread, which has a row, its gradient and sums of each in registers
THREADS = 512  # of a processor, so that each has 128 registers at least
ADDED = Config({"PARTS": 128, "COLUMNS": 32}, num_warps=8)  # sums that one program adds at a time


class RmsNormGradients(GradientKernel):
    name = "triton.rms_norm_gradients"
    differentiates = "triton.rms_norm"
    functions = ("rms_norm_gradients",)

    def refuses(self, op: RmsNorm, operands: tuple[TensorType, ...], target: Target) -> str | None:
        return unable(operands, target) or too_wide(operands[0])

    def configs(
        self, op: RmsNorm, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        yield from row_configs(operands[0], 2, target)

    def key(self, op: RmsNorm, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        return (width(operands[0]),)

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return tables(uses, target)

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return {
            "function": name("rms_norm_gradients"),
            "summed": False,
            "masked": masked(uses),
            "offset": any(use.op.offset for use in uses),
            "gainless": any(len(use.operands) < 2 for use in uses),
            "heads": any(len(use.operands[0].shape) > 3 for use in uses),
        }

    def call(self, op: RmsNorm, x: Code, *others: Code, phases: tuple[str, ...]) -> Code:
        *weight, dy = others
        gain, offset = (weight or [as_code(None)]), ([as_code(op.offset)] if op.offset else [])
        wanted = tuple_of(True, *(True for _ in weight))
        return call("rms_norm_gradients", x, *gain, op.eps, *offset, dy, wanted)


def too_wide(type: TensorType) -> str | None:
    """Why a program cannot hold a row, its gradient and the sums of a weight's, or None."""
    if width(type) > WIDEST:
        return f"a row of {width(type)} and its gradient do not fit one program: at most {WIDEST}"
    return None


def row_configs(type: TensorType, read: int, target: Target) -> Iterator[Config]:
    """Rows for a step of a program, and how many steps are under way at a time, at most three; then
    one step less, and half the elements for each thread, by twice the warps or half the rows.

    `read` tensors of such rows are read. What is read ahead waits in shared memory, of which each
    program of a processor has its part, so that memory is busy while other rows are summed.
    """
    assert target.triton is not None
    block, lanes = power_of_2(width(type)), int(target.triton["warp_size"])
    most = max(TILE // block, 1)
    for rows, each in ((most, EACH), (most, EACH // 2), (max(most // 2, 1), EACH // 2)):
        warps = max(rows * block // (each * lanes), 1)
        room = target.shared_memory // programs_of(warps, target)
        stages = min(1 + room // (read * rows * block * BYTES[type.dtype]), 3)
        for fewer in range(min(stages, 2)):
            if warps * lanes <= THREADS:
                constants = {"ROWS": rows, "BLOCK": block, "STAGES": stages - fewer}
                yield Config(constants, num_warps=warps)


def programs_of(warps: int, target: Target) -> int:
    """How many programs of so many warps share a processor."""
    assert target.triton is not None
    return max(THREADS // (warps * int(target.triton["warp_size"])), 1)


def tables(uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
    """Options of each width of row, how many programs take such rows, and how sums are added."""
    tiles = by_width(uses)
    programs = {
        key: target.processors * programs_of(options["num_warps"], target)
        for key, options in tiles.items()
    }
    return {"TILES": tiles, "PROGRAMS": programs, "ADDED": ADDED.options()}
