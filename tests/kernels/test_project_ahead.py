"""Products that append what they are projected to, compiled ahead of time at published sizes."""

from __future__ import annotations

import pytest
from archsmith.compiler.emit.aot import Compiled, calls
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.project import ProjectHeads, ProjectLatent
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.candidates import use
from archsmith.compiler.schedule.kernel import Use
from kernels.checks import VALUES
from kernels.recorded import Ahead

ROWS = Sizes(1, 1, 4096), Sizes(16, 1, 4096)
LATENT = ProjectLatent("kv", False, 1e-6, 1e-6)


def heads(heads: int, groups: int, width: int, normed: bool) -> tuple[ProjectHeads, list[str]]:
    """Heads 128 wide."""
    sizes = map(Dim.of, (heads, groups, 128, 128))
    op = ProjectHeads("k", "v", *sizes, False, 1e-6, eps=1e-6 if normed else None)
    types = ["int64[B, T]", *["float32[B, T, 64]"] * 2, *["bfloat16[128]"] * (2 * normed)]
    return op, [*product((heads + 2 * groups) * 128, width), *types]


def latent(heads: int, width: int) -> tuple[ProjectLatent, list[str]]:
    """DeepSeek's widths."""
    types = [f"bfloat16[{heads}, 128, 512]", "int64[B, T]", *["float32[B, T, 32]"] * 2]
    return LATENT, [*product(heads * 192 + 576, width), *types, "bfloat16[512]"]


def product(columns: int, width: int) -> list[str]:
    rows = [f"bfloat16[B, T, {width}]"] * 2
    return [*rows, f"bfloat16[{columns}, {width}]", f"bfloat16[{width}]"]


MODELS = {
    "deepseek-v2-lite": latent(16, 2048),
    "llama-3-8b": heads(32, 8, 4096, False),
    "qwen3-30b-a3b": heads(32, 4, 2048, True),
}


@pytest.mark.parametrize("oldest", [False, True], ids=["newest", "oldest"])
@pytest.mark.parametrize("target", ["a100", "h200", "b200"])
def test_published_sizes(ahead: Ahead, registry: Registry, target: str, oldest: bool) -> None:
    chip = registry.targets[target]
    files, asked = {"kernels/__init__.py": ""}, []
    for name in ("project_heads", "project_latent"):
        kernel = registry.kernels[f"triton.{name}"]()
        named = [(op, tuple(map(TensorType.parse, types))) for op, types in MODELS.values()]
        uses = [use(kernel, *of, chip) for of in named if of[0].name == name]
        assert all(kernel.refuses(found.op, found.operands, chip) is None for found in uses)
        steps: dict[str, list[Use]] = {}
        for found in uses:
            asked += calls(kernel, found, ROWS, ("decode",))
            for step in kernel.beside(found.op, found.operands):
                made = use(step.kernel, step.op, step.operands, chip)
                steps.setdefault(step.kernel.name, []).append(made)
        for key, taken in [(kernel.name, uses), *steps.items()]:
            own = registry.kernels[key]()
            for stem in (own.stem(), *own.parts):
                files[f"kernels/{stem}.py"] = kernel_file(own, taken, chip, VALUES, part=stem)
    files["kernels/operators.py"] = operators_file(registry.templates["operators.py"], files, 2)
    compiled: list[Compiled] = ahead("project", files, asked, chip, oldest)
    assert {kernel.kernel for kernel in compiled} == {"heads_projection", "latent_projection"}
    for made in compiled:
        assert made.spills == 0, made
        assert made.shared <= chip.shared_memory, made
