"""Rows in float8 and attention to them compiled ahead of time: DeepSeek's, for every target."""

from __future__ import annotations

import pytest
from archsmith.compiler.emit.aot import Compiled, calls
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.quantized_attention import QuantizedAttend
from archsmith.compiler.ops.quantized_rows import QuantizeRows
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.candidates import use
from kernels.checks import VALUES
from kernels.recorded import Ahead

LATENT, ROPE = 512, 64
PRODUCTS = {"a100": "mma.sync", "h200": "mma.sync", "b200": "mma.sync", "mi300x": "v_mfma"}


def compiled(
    ahead: Ahead, registry: Registry, target: str, heads: int, oldest: bool
) -> list[Compiled]:
    chip, files, asked = registry.targets[target], {}, []
    types = (
        *(f"bfloat16[B, T, {heads}, {LATENT + ROPE}]", f"float8_e4m3fn[B, S, {LATENT}]"),
        *(f"float32[B, S, {LATENT // 128}]", f"bfloat16[B, S, {ROPE}]", "int64[B, T]"),
    )
    uses = {
        "triton.quantized_attention": (QuantizedAttend(0.07), types),
        "triton.quantize_rows": (QuantizeRows(), (f"bfloat16[B, T, {LATENT}]",)),
    }
    for name, (op, given) in uses.items():
        kernel = registry.kernels[name]()
        operands = tuple(map(TensorType.parse, given))
        assert kernel.refuses(op, operands, chip) is None
        for family in (registry.kernels[kernel.reference](), kernel):
            found = use(family, op, operands, chip)
            for stem in (family.stem(), *family.parts):
                files[f"kernels/{stem}.py"] = kernel_file(family, [found], chip, VALUES, part=stem)
        asked += calls(kernel, found, [Sizes(4, 1, 4096)], ("decode",))
    files["kernels/operators.py"] = operators_file(registry.templates["operators.py"], files, 2)
    return ahead(f"latent-in-float8-{heads}", files, asked, chip, oldest)


@pytest.mark.parametrize("oldest", [False, True])
@pytest.mark.parametrize("heads", [16, 128])
@pytest.mark.parametrize("target", ["a100", "h200", "b200", "mi300x"])
def test_a_latent_in_float8(
    ahead: Ahead, registry: Registry, target: str, heads: int, oldest: bool
) -> None:
    found = {k.kernel: k for k in compiled(ahead, registry, target, heads, oldest)}
    apart = {"combine_splits"} if target == "mi300x" else set()
    assert found.keys() == {"quantized_split", "_quantize"} | apart
    for kernel in found.values():
        assert kernel.spills == 0, kernel
        assert kernel.shared <= registry.targets[target].shared_memory, kernel
    attend = found["quantized_split"]
    assert set(attend.instructions) == {PRODUCTS[target]}, attend
    if PRODUCTS[target] == "mma.sync":  # of 16 x 8 x 16 numbers; with latents, none is done twice
        m, n = (attend.options[f"BLOCK_{axis}"] for axis in "MN")
        latent, rest = (m * n * width // (16 * 8 * 16) for width in (2 * LATENT, ROPE))
        warps = attend.options["num_warps"]
        assert attend.instructions["mma.sync"] <= latent // warps + rest // 4, attend
