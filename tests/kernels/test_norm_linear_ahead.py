"""Products of few normed rows compiled ahead of time, at the sizes of published models."""

from __future__ import annotations

import pytest
from archsmith.compiler.emit.aot import Compiled, calls
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.norm_linear import AddRmsNormLinear, RmsNormLinear
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.candidates import use
from archsmith.compiler.schedule.kernel import Use
from kernels.checks import VALUES
from kernels.recorded import Ahead

ROWS = Sizes(1, 1, 4096), Sizes(16, 1, 4096)
Op = RmsNormLinear | AddRmsNormLinear
PLAIN, ADDED = RmsNormLinear(1e-6), AddRmsNormLinear(1e-6)
GATED = AddRmsNormLinear(1e-6, activation="silu")

# The product, the shape of its weight, and whether it has a bias.
MODELS: dict[str, tuple[Op, tuple[int, ...], bool]] = {
    "deepseek-v2-lite": (ADDED, (3648, 2048), False),
    "deepseek-v3": (ADDED, (2112, 7168), False),
    "deepseek-v3, queries": (PLAIN, (128, 192, 1536), False),
    "llama-3-8b": (ADDED, (6144, 4096), False),
    "llama-3-8b, gate and up": (GATED, (2, 14336, 4096), False),
    "qwen2.5-7b": (ADDED, (4608, 3584), True),
    "gpt-oss": (ADDED, (5120, 2880), True),  # a width of no whole tiles
    "gemma-2-9b": (
        AddRmsNormLinear(1e-6, 1.0, "gelu_tanh"),
        (2, 14336, 3584),
        False,
    ),
}


def used(registry: Registry, name: str, target: str) -> Use:
    op, shape, biased = MODELS[name]
    row, gain = (TensorType.parse(f"bfloat16[{axes}{shape[-1]}]") for axes in ("B, T, ", ""))
    weight, bias = (
        TensorType.parse(f"bfloat16[{', '.join(map(str, axes))}]") for axes in (shape, shape[:-1])
    )
    rows = (row,) if op is PLAIN else (row, row)
    chip, kernel = registry.targets[target], registry.kernels[f"triton.{op.name}"]()
    found = use(kernel, op, (*rows, weight, gain, *[bias] * biased), chip)
    assert kernel.refuses(op, found.operands, chip) is None
    return found


@pytest.mark.parametrize("oldest", [False, True], ids=["newest", "oldest"])
@pytest.mark.parametrize("target", ["a100", "h200", "b200", "mi300x"])
def test_published_sizes(ahead: Ahead, registry: Registry, target: str, oldest: bool) -> None:
    chip = registry.targets[target]
    uses = [used(registry, name, target) for name in MODELS]
    kernel = registry.kernels["triton.add_rms_norm_linear"]()
    files = {"kernels/__init__.py": ""}
    for stem in (kernel.stem(), *kernel.parts):
        files[f"kernels/{stem}.py"] = kernel_file(kernel, uses, chip, VALUES, part=stem)
    for found in uses:
        for step in kernel.beside(found.op, found.operands):
            made = [use(step.kernel, step.op, step.operands, chip)]
            files[f"kernels/{step.kernel.stem()}.py"] = kernel_file(step.kernel, made, chip, VALUES)
    files["kernels/operators.py"] = operators_file(registry.templates["operators.py"], files, 2)
    asked = [
        call
        for found in uses
        for call in calls(registry.kernels[f"triton.{found.op.name}"](), found, ROWS, ("decode",))
    ]
    compiled: list[Compiled] = ahead("norm_linear", files, asked, chip, oldest)
    assert {kernel.kernel for kernel in compiled} == {"one_row", "few_rows"}
    for made in compiled:
        assert made.spills == 0, made
        assert made.shared <= chip.shared_memory, made
        assert bool(made.instructions) == (made.kernel == "few_rows"), made
