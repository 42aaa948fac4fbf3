"""Experts in 8 bits compiled ahead of time: at the sizes of a published model, for every target."""

from __future__ import annotations

import pytest
from archsmith.compiler.emit.aot import Compiled, calls
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.quantized_experts import QuantizedExperts
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.select import use
from kernels.checks import VALUES
from kernels.quantized_cases import FLOAT8
from kernels.recorded import Ahead

E, D, F, K = 64, 2048, 1408, 6  # DeepSeek-V2-Lite's experts
ROWS = (1, 16, 256, 512, 4096)
"""Tokens of calls that reach tiles of 16 rows, with a table and without, and of up to 128."""
WIDE = {"a100": "mma.sync", "h200": "wgmma.mma_async", "b200": "tcgen05.mma", "mi300x": "v_mfma"}


def compiled(
    ahead: Ahead, registry: Registry, target: str, format: str, near: bool, oldest: bool
) -> list[Compiled]:
    types = (
        *(f"bfloat16[B, T, {D}]", f"int64[B, T, {K}]", f"float32[B, T, {K}]"),
        *(f"{format}[{E}, 2, {F}, {D}]", f"{format}[{E}, {D}, {F}]"),
        *(f"float32[{E}, 2, {F // 128}, {D // 128}]", f"float32[{E}, {D // 128}, {F // 128}]"),
    )
    operands = tuple(map(TensorType.parse, types))
    op, chip = QuantizedExperts("silu", activations=near), registry.targets[target]
    files = {}
    kernel = registry.kernels["triton.quantized_gemm"]()
    for family in (registry.kernels[kernel.reference](), kernel):
        found = use(family, op, operands, chip)
        for stem in (family.stem(), *family.parts):
            files[f"kernels/{stem}.py"] = kernel_file(family, [found], chip, VALUES, part=stem)
    files["kernels/operators.py"] = operators_file(registry.templates["operators.py"], files, 2)
    asked = calls(kernel, found, [Sizes(1, rows, rows) for rows in ROWS], ("prefill",))
    job = f"{format}-activations" if near else format
    return ahead(job, files, asked, chip, oldest)


@pytest.mark.parametrize("oldest", [False, True])
@pytest.mark.parametrize(
    ("target", "format", "near"),
    [
        ("a100", FLOAT8, False),
        ("a100", "int8", False),
        ("h200", FLOAT8, False),
        ("h200", FLOAT8, True),
        ("b200", FLOAT8, True),
        ("b200", "int8", False),
        ("mi300x", FLOAT8, False),
        ("mi300x", "int8", False),
    ],
)
def test_experts_in_8_bits(
    ahead: Ahead, registry: Registry, target: str, format: str, near: bool, oldest: bool
) -> None:
    found = compiled(ahead, registry, target, format, near, oldest)
    assert {kernel.kernel for kernel in found} >= {"_product", "_combine", "_sort"}
    assert ("_in_float8" in {kernel.kernel for kernel in found}) == near
    products = [kernel for kernel in found if kernel.kernel == "_product"]
    assert {kernel.options["BLOCK_M"] for kernel in products} >= {16, 64}
    for kernel in found:
        assert kernel.spills == 0, kernel
        assert kernel.shared <= registry.targets[target].shared_memory, kernel
    for kernel in products:
        large = kernel.options["BLOCK_M"] >= 64
        wanted = WIDE[target] if large or target == "mi300x" else "mma.sync"
        assert set(kernel.instructions) == {wanted}, kernel
        if target == "h200" and large:  # 32 numbers of float8 at a time, or 16 of bfloat16
            parts = 2 if kernel.options["OUT"] == F else 1
            assert kernel.instructions[wanted] == parts * 128 // (32 if near else 16), kernel
