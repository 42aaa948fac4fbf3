"""Attention in Triton compiled ahead of time: the widest rows that it takes, for every target."""

from __future__ import annotations

import pytest
from archsmith.compiler.emit.aot import Compiled, calls
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.attention import Attend
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.kernel import Use
from archsmith.compiler.schedule.select import use
from kernels.checks import VALUES
from kernels.recorded import Ahead

OP = Attend(0.07)
CALLS = {
    "triton.prefill_attention": [Sizes(1, 4096, 4096)],
    "triton.decode_attention": [Sizes(1, 1, 4096)],
}


def operands(heads: int, kv_heads: int, key: int, value: int) -> tuple[TensorType, ...]:
    shapes = f"T, {heads}, {key}", f"S, {kv_heads}, {key}", f"S, {kv_heads}, {value}"
    types = (f"bfloat16[B, {shape}]" for shape in shapes)
    return (*map(TensorType.parse, types), TensorType.parse("int64[B, T]"))


def compiled(
    ahead: Ahead, registry: Registry, types: tuple[TensorType, ...], target: str
) -> list[Compiled]:
    chip = registry.targets[target]
    files = {"kernels/__init__.py": ""}
    asked = []
    reference = registry.kernels["torch.attend"]()
    files["kernels/attend.py"] = kernel_file(reference, (), chip, VALUES)
    for name, sizes in CALLS.items():
        kernel = registry.kernels[name]()
        assert kernel.refuses(OP, types, chip) is None
        found: Use = use(kernel, OP, types, chip)
        files[f"kernels/{kernel.stem()}.py"] = kernel_file(kernel, [found], chip, VALUES)
        asked += calls(kernel, found, sizes, ("prefill",))
    files["kernels/operators.py"] = operators_file(registry.templates["operators.py"], files, 2)
    return ahead("latent-attention", files, asked, chip)


@pytest.mark.parametrize("target", ["a100", "h200", "b200", "mi300x"])
def test_a_latent_that_all_heads_share_fits(ahead: Ahead, registry: Registry, target: str) -> None:
    found = compiled(ahead, registry, operands(16, 1, 576, 512), target)
    assert {kernel.kernel for kernel in found} == {"_prefill", "_split", "_combine"}
    for kernel in found:
        assert kernel.shared <= registry.targets[target].shared_memory, kernel
        assert kernel.spills == 0, kernel
        assert bool(kernel.instructions) == (kernel.kernel != "_combine"), kernel
