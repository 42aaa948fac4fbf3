"""Experts in 8 bits compiled ahead of time: at the sizes of a published model, for every target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import pytest
from archsmith.compiler.emit.aot import Compiled, calls
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.quantized_experts import QuantizedExperts
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.candidates import use
from kernels.checks import VALUES
from kernels.quantized_cases import FLOAT8, types
from kernels.recorded import Ahead

# Experts, experts a token, width, inner width; and tokens of calls that reach tiles of 16 rows, of
# 32 and of more, with a table and without.
SIZES = {
    "deepseek-v2-lite": ((64, 6, 2048, 1408), (1, 16, 32, 256, 512, 4096)),
    "deepseek-v3": ((256, 8, 7168, 2048), (1, 32, 64, 1024, 8192)),
}
JOBS = {"deepseek-v2-lite": "", "deepseek-v3": "deepseek-v3-"}  # what its facts are kept by
WIDE = {"a100": "mma.sync", "h200": "wgmma.mma_async", "b200": "tcgen05.mma", "mi300x": "v_mfma"}
USES = [
    *(("a100", "deepseek-v2-lite", format, False) for format in (FLOAT8, "int8")),
    *(("h200", "deepseek-v2-lite", FLOAT8, near) for near in (False, True)),
    ("h200", "deepseek-v2-lite", "int8", False),
    ("b200", "deepseek-v2-lite", FLOAT8, True),
    ("b200", "deepseek-v2-lite", "int8", False),
    *(("mi300x", "deepseek-v2-lite", format, False) for format in (FLOAT8, "int8")),
    *((target, "deepseek-v3", FLOAT8, False) for target in WIDE),
    *((target, "deepseek-v3", FLOAT8, True) for target in ("h200", "b200")),
]


# Candidates that are nowhere the first, of DeepSeek-V3 on an H200 and for so many tokens.
TURNS = {"BLOCK_M": 64, "TURNS": 2}, {"BLOCK_M": 128, "TURNS": 2}
OTHERS = [(True, 2048, TURNS[0]), (False, 8192, TURNS[1])]


def compiled(
    ahead: Ahead,
    registry: Registry,
    use_of: tuple[str, str, str, bool],
    oldest: bool,
    rows: int = 0,
    like: Mapping[str, int] | None = None,
) -> list[Compiled]:
    """Of the first tiles, or of the first candidate for so many rows that is `like` it."""
    target, model, format, near = use_of
    sizes, calls_of = SIZES[model]
    texts = types(*sizes, format, 128)
    operands = tuple(TensorType.parse(t if t[0] != "[" else f"bfloat16{t}") for t in texts)
    op, chip = QuantizedExperts("silu", activations=near), registry.targets[target]
    files = {}
    kernel = registry.kernels["triton.quantized_gemm"]()
    for family in (registry.kernels[kernel.reference](), kernel):
        found = use(family, op, operands, chip)
        if like and family is kernel:
            every = kernel.configs(op, operands, rows, chip)
            other = next(c for c in every if like.items() <= c.constants.items())
            found = replace(found, tiles=((None, other),))
        for stem in (family.stem(), *family.parts):
            files[f"kernels/{stem}.py"] = kernel_file(family, [found], chip, VALUES, part=stem)
    files["kernels/operators.py"] = operators_file(registry.templates["operators.py"], files, 2)
    sizes_of = [Sizes(1, n, n) for n in ((rows,) if like else calls_of)]
    asked = calls(kernel, found, sizes_of, ("prefill",))
    job = f"{JOBS[model]}{format}" + "-activations" * near + "-turns" * bool(like)
    return ahead(job, files, asked, chip, oldest)


@pytest.mark.parametrize("oldest", [False, True])
@pytest.mark.parametrize("use_of", USES, ids=str)
def test_experts_in_8_bits(
    ahead: Ahead, registry: Registry, use_of: tuple[str, str, str, bool], oldest: bool
) -> None:
    target, model, _, near = use_of
    found = compiled(ahead, registry, use_of, oldest)
    assert {kernel.kernel for kernel in found} >= {"_product", "_combine", "_sort"}
    assert ("_round" in {kernel.kernel for kernel in found}) == near
    products = [kernel for kernel in found if kernel.kernel == "_product"]
    assert {kernel.options["BLOCK_M"] for kernel in products} >= {16, 32, 128} or target == "a100"
    for kernel in found:
        assert kernel.spills == 0, kernel
        assert kernel.shared <= registry.targets[target].shared_memory, kernel
    inner = SIZES[model][0][3]
    for kernel in products:
        tile = kernel.options
        large = tile["BLOCK_M"] >= 64 or tile["SWAPPED"]
        wanted = WIDE[target] if large or target == "mi300x" else "mma.sync"
        assert set(kernel.instructions) == {wanted}, kernel
        assert tile.get("DESCRIBED", 0) == ("tma" in registry.targets[target].features) * (
            tile["BLOCK_M"] > 16
        )
        if target == "h200":  # 64 rows and 32 numbers of float8 at a time, or 16 of bfloat16
            assert large, kernel
            parts = 2 if tile["OUT"] == inner else 1
            tall = tile["BLOCK_N"] if tile["SWAPPED"] else tile["BLOCK_M"]
            each = max(tall // (64 * (tile["num_warps"] // 4)), 1)
            deep = tile["BLOCK"] // (32 if near else 16)
            assert kernel.instructions[wanted] == parts * each * deep, kernel


@pytest.mark.parametrize("oldest", [False, True])
@pytest.mark.parametrize(("near", "rows", "like"), OTHERS)
def test_others_are_candidates_that_fit(
    ahead: Ahead, registry: Registry, near: bool, rows: int, like: Mapping[str, int], oldest: bool
) -> None:
    use_of = ("h200", "deepseek-v3", FLOAT8, near)
    found = compiled(ahead, registry, use_of, oldest, rows, like)
    products = [kernel for kernel in found if kernel.kernel == "_product"]
    assert len(products) == 2
    for kernel in products:
        assert kernel.spills == 0, kernel
        assert set(kernel.instructions) == {"wgmma.mma_async"}, kernel
        warps, held = kernel.options["num_warps"], 2 if near else 1  # programs of a processor
        assert held * warps * 32 * kernel.registers <= 65536, kernel
