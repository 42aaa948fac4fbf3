"""What people see of a build, where a terminal has 80 columns."""

from __future__ import annotations

from io import StringIO

from archsmith.compiler.emit.aot import Compiled
from archsmith.compiler.show import kernels
from rich.console import Console


def compiled(kernel: str, registers: int, spills: int = 0, **options: int) -> Compiled:
    products = {"wgmma.mma_async": 24} if kernel == "_product" else {}
    return Compiled("f", kernel, options, registers, spills, 196640, products, 41256, "")


def test_kernels_are_read_in_80_columns() -> None:
    """What all binaries of a kernel have alike is said once; of two for the same, the worse."""
    alike = {"HEADS": 128, "COLUMNS": 10944, "DESCRIBED": 1, "GROUP_M": 8}
    found = [
        compiled("_product", 216, **alike, BLOCK_M=128, num_warps=8),
        compiled("_product", 96, **alike, BLOCK_M=64, num_warps=4),
        compiled("_product", 98, 24, **alike, BLOCK_M=64, num_warps=4),
        compiled("_gated_activation_gradients", 40, N=10944, num_warps=4),
    ]
    out = StringIO()
    Console(file=out, width=80).print(kernels(found))
    lines = [line.strip() for line in out.getvalue().splitlines() if line.strip()]
    assert [line.split() for line in lines[3:]] == [
        ["_gated_activation_gradients", "40", "0", "196,640", "-", "41,256"],
        ["N=10944", "warps=4"],
        ["_product", "HEADS=128"],
        ["COLUMNS=10944", "DESCRIBED=1"],
        ["GROUP_M=8"],
        ["BLOCK_M=64", "warps=4", "98", "24", "196,640", "24", "wgmma", "41,256"],
        ["BLOCK_M=128", "warps=8", "216", "0", "196,640", "24", "wgmma", "41,256"],
    ]
