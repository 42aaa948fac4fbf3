"""Grouped experts in Triton compiled ahead of time: every tile of a model, for every target."""

from __future__ import annotations

import pytest
from archsmith.compiler.emit.aot import Compiled, calls, compile_ahead
from archsmith.compiler.emit.kernels import kernel_file, library_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.moe import FusedExperts
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.select import use
from kernels.checks import VALUES

# DeepSeek-V2-Lite's: its inner width is no power of two.
EXPERTS, TOP_K, WIDTH, INNER = 64, 6, 2048, 1408
TYPES = (
    f"bfloat16[B, T, {WIDTH}]",
    f"int64[B, T, {TOP_K}]",
    f"float32[B, T, {TOP_K}]",
    f"bfloat16[{EXPERTS}, {2 * INNER}, {WIDTH}]",
    f"bfloat16[{EXPERTS}, {WIDTH}, {INNER}]",
)
INSTRUCTION = {
    "a100": "mma.sync",
    "h200": "wgmma.mma_async",
    "b200": "tcgen05.mma",
    "mi300x": "v_mfma",
}


def compiled(registry: Registry, target: str) -> list[Compiled]:
    chip, op = registry.targets[target], FusedExperts("silu")
    assert chip.triton is not None
    files = {}
    types = tuple(map(TensorType.parse, TYPES))
    kernel = registry.kernels["triton.grouped_gemm"]()
    for family in (registry.kernels[kernel.reference](), kernel):
        text = kernel_file(family, [use(family, op, types, chip)], chip, VALUES)
        files[f"kernels/{family.stem()}.py"] = text
    library = library_file(registry.templates["library.py"], files, 2)
    files |= {"kernels/__init__.py": "", "kernels/library.py": library}
    tiles = use(kernel, op, types, chip)
    sizes = [Sizes(1, most or 9999, most or 9999) for most, _ in tiles.tiles]
    asked = calls(kernel, tiles, sizes, ("prefill",))
    return compile_ahead(files, asked, chip.triton, registry.templates["compile.py"])


@pytest.mark.parametrize("target", INSTRUCTION)
def test_tiles_fit_the_target_and_use_its_matrix_instructions(
    registry: Registry, target: str
) -> None:
    chip = registry.targets[target]
    found = compiled(registry, target)
    products = [k for k in found if k.kernel == "_product"]
    assert {k.options["BLOCK_M"] for k in products} == {16, 32, 64, 128}
    assert all(k.shared <= chip.shared_memory for k in found)
    assert not [k for k in found if k.spills]
    for kernel in products:
        wide = kernel.options["BLOCK_M"] >= 64
        few = "v_mfma" if target == "mi300x" else "mma.sync"  # of fewer rows, warps by themselves
        assert set(kernel.instructions) == {INSTRUCTION[target] if wide else few}, kernel
