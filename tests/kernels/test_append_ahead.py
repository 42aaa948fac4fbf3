"""Kernels that write to caches compiled ahead of time, at the sizes of published models."""

from __future__ import annotations

import pytest
from archsmith.compiler.emit.aot import Compiled, calls
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.append import AppendHeads, AppendLatent, AppendQuantizedLatent
from archsmith.compiler.ops.linear import Einsum
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.candidates import use
from kernels.checks import VALUES
from kernels.recorded import Ahead

KERNELS = ("append_heads", "append_latent", "append_quantized_latent", "head_product")
HEADS, NORMED = AppendHeads("k", "v", False), AppendHeads("k", "v", False, eps=1e-6)
ABSORBED = Einsum("bthd,hkd->bthk")
LATENT = AppendLatent("kv", False, 1e-6)
IN_FLOAT8 = AppendQuantizedLatent("rest", "numbers", "scales", False, 1e-6)
ROWS = Sizes(1, 1, 4096), Sizes(32, 1, 4096), Sizes(128, 1, 4096)


def heads(heads: int, groups: int, width: int, pairs: int, gains: bool = False) -> list[str]:
    shapes = [f"bfloat16[B, T, {count}, {width}]" for count in (heads, groups, groups)]
    turns = ["int64[B, T]", *[f"float32[B, T, {pairs}]"] * 2]
    return [*shapes, *turns, *[f"bfloat16[{width}]"] * (2 * gains)]


def latent(heads: int) -> list[str]:
    """Of DeepSeek-V2 and V3, whatever the count of heads."""
    queries = [f"bfloat16[B, T, {heads}, {width}]" for width in (128, 64)]
    shared = [f"bfloat16[B, T, {width}]" for width in (512, 64)]
    turns = ["int64[B, T]", *["float32[B, T, 32]"] * 2]
    return [*queries, f"bfloat16[{heads}, 128, 512]", *shared, *turns, "bfloat16[512]"]


def absorbed(heads: int) -> list[str]:
    """What attention to latents gives, and the weight that makes a head's result of it."""
    return [f"bfloat16[B, T, {heads}, 512]", f"bfloat16[{heads}, 128, 512]"]


MODELS: dict[str, tuple[Op, list[str]]] = {
    "llama-3-8b": (HEADS, heads(32, 8, 128, 64)),
    "qwen3-30b-a3b": (NORMED, heads(32, 4, 128, 64, True)),
    "glm-4.5": (NORMED, heads(96, 8, 128, 32, True)),
    "gemma-2-9b": (HEADS, heads(16, 8, 256, 128)),
    "deepseek-v2-lite": (LATENT, latent(16)),
    "deepseek-v3": (LATENT, latent(128)),
    "deepseek-v2-lite in float8": (IN_FLOAT8, latent(16)),
    "deepseek-v3 in float8": (IN_FLOAT8, latent(128)),
    **{f"{heads} heads": (ABSORBED, absorbed(heads)) for heads in (16, 128)},
}


@pytest.mark.parametrize("oldest", [False, True], ids=["newest", "oldest"])
@pytest.mark.parametrize("target", ["a100", "h200", "b200", "mi300x"])
def test_published_sizes(ahead: Ahead, registry: Registry, target: str, oldest: bool) -> None:
    chip = registry.targets[target]
    files, asked = {"kernels/__init__.py": ""}, []
    for name in KERNELS:
        kernel = registry.kernels[f"triton.{name}"]()
        named = [(op, tuple(map(TensorType.parse, types))) for op, types in MODELS.values()]
        uses = [use(kernel, *of, chip) for of in named if of[0].name == kernel.implements]
        assert all(kernel.refuses(found.op, found.operands, chip) is None for found in uses)
        for stem in (kernel.stem(), *kernel.parts):
            files[f"kernels/{stem}.py"] = kernel_file(kernel, uses, chip, VALUES, part=stem)
        for found in uses:
            asked += calls(kernel, found, ROWS, ("decode",))
    files["kernels/operators.py"] = operators_file(registry.templates["operators.py"], files, 2)
    compiled: list[Compiled] = ahead("append", files, asked, chip, oldest)
    assert {kernel.kernel for kernel in compiled} == {f"_{name}" for name in KERNELS}
    for kernel in compiled:
        assert kernel.spills == 0, kernel
        assert kernel.shared <= chip.shared_memory, kernel
        assert bool(kernel.instructions) == (kernel.kernel != "_append_heads"), kernel
