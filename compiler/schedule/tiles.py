"""What Triton kernels have in common: when none can be had, and how rows are shared out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ..ir.dims import Dim
from ..ir.types import BYTES, TensorType
from ..machine.target import Target
from .kernel import Config, Use

MAX_THREADS = 1024  # of a program
MAX_ROW = 32768  # elements of a row, which one program holds in its registers
TILE = 2048  # elements of a program that takes several rows


def unable(operands: tuple[TensorType, ...], target: Target) -> str | None:
    """Why no Triton kernel computes anything of these operands here, or None."""
    if target.triton is None:
        return "the target has no Triton"
    if any(t.dtype == "float64" for t in operands):
        return "float64 is computed by PyTorch"
    return None


def power_of_2(n: int) -> int:
    """The next power of two that is not less: a tile's axes are such."""
    return 1 << (n - 1).bit_length()


def width(type: TensorType) -> int:
    """The size of a value's last axis."""
    axis = type.shape[-1]
    assert isinstance(axis, Dim)
    return axis.size


def too_wide(type: TensorType) -> str | None:
    """Why a program cannot hold a row of a value, or None."""
    if width(type) > MAX_ROW:
        return f"a row of {width(type)} does not fit one program: at most {MAX_ROW}"
    return None


def row_config(type: TensorType, target: Target) -> Config:
    """Whole rows for a program: one, or as many short ones as make a tile.

    Each thread holds 16 bytes at a time, the widest load there is, and two of them.
    """
    assert target.triton is not None
    block = power_of_2(width(type))
    rows = max(TILE // block, 1)
    each = 2 * 16 // BYTES[type.dtype]
    warps = rows * block // (each * target.triton["warp_size"])
    return Config({"ROWS": rows, "BLOCK": block}, num_warps=min(max(warps, 1), 16))


def row_configs(type: TensorType, target: Target) -> Iterator[Config]:
    """`row_config`, and then with half and twice its warps, its rows, or both."""
    best = row_config(type, target)
    assert target.triton is not None
    for times in (1, 2, 0.5):
        rows = int(best.constants["ROWS"] * times)
        elements = rows * best.constants["BLOCK"]
        for share in (1, 0.5, 2):
            warps = int(best.num_warps * share)
            lanes = warps * target.triton["warp_size"]
            if 0 < lanes <= min(elements, MAX_THREADS) and elements <= MAX_ROW:
                yield replace(best, constants={**best.constants, "ROWS": rows}, num_warps=warps)


def by_width(uses: tuple[Use, ...]) -> Mapping[int, Mapping[str, int]]:
    """The options of each width of row, the narrowest first."""
    found = {width(use.operands[0]): use.tiles[-1][1].options() for use in uses}
    return {key: found[key] for key in sorted(found)}


def masked(uses: tuple[Use, ...]) -> bool:
    """Whether any row is narrower than its tile."""
    return any(key != options["BLOCK"] for key, options in by_width(uses).items())
