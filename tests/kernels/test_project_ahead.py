"""Products that append what they are projected to, compiled ahead of time at published sizes."""

from __future__ import annotations

from typing import Any

import pytest
from archsmith.compiler.emit.aot import Compiled, calls
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.project import ProjectHeads, ProjectLatent
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.candidates import use
from archsmith.compiler.schedule.kernel import Kernel, Use
from kernels.checks import VALUES
from kernels.recorded import Ahead

ROWS = Sizes(1, 1, 4096), Sizes(16, 1, 4096)
OF_SUM = ("residual", "gain")
IN_FLOAT8 = {"caches": ("rest", "numbers", "scales"), "block": Dim.of(128)}
TURNS = ["int64[B, T]", *["float32[B, T, 32]"] * 2]


def heads(heads: int, groups: int, width: int, *others: str) -> tuple[ProjectHeads, list[str]]:
    """Heads 128 wide; `others` are beside a sum and a gain."""
    columns = (heads + 2 * groups) * 128
    op = ProjectHeads(
        keys="k",
        values="v",
        heads=Dim.of(heads),
        groups=Dim.of(groups),
        key=Dim.of(128),
        value=Dim.of(128),
        interleaved=False,
        row_eps=1e-6,
        eps=1e-6 if "q_weight" in others else None,
        beside=(*OF_SUM, *others),
    )
    of = {"bias": columns, "q_weight": 128, "k_weight": 128}
    turns = ["int64[B, T]", *["float32[B, T, 64]"] * 2]
    types = [f"bfloat16[B, T, {width}]", f"bfloat16[{columns}, {width}]", *turns]
    types += [types[0], f"bfloat16[{width}]", *(f"bfloat16[{of[key]}]" for key in others)]
    return op, types


def latent(heads: int, width: int, apart: bool, **kept: Any) -> tuple[ProjectLatent, list[str]]:
    """DeepSeek's widths; `apart` where queries have a latent of their own."""
    beside = ("gain", "latent", "k_rope") if apart else OF_SUM
    kept = kept or {"caches": ("kv",)}
    beside = (*beside, "latent_gain")
    op = ProjectLatent(interleaved=False, row_eps=1e-6, eps=1e-6, beside=beside, **kept)
    columns = heads * 192 + (0 if apart else 576)
    types = [f"bfloat16[B, T, {width}]", f"bfloat16[{columns}, {width}]"]
    types += [f"bfloat16[{heads}, 128, 512]", *TURNS]
    of = {"residual": types[0], "gain": f"bfloat16[{width}]", "latent_gain": "bfloat16[512]"}
    of |= {"latent": "bfloat16[B, T, 512]", "k_rope": "bfloat16[B, T, 64]"}
    return op, [*types, *(of[key] for key in beside)]


MODELS = {
    "deepseek-v2-lite": latent(16, 2048, False),
    "deepseek-v2-lite in float8": latent(16, 2048, False, **IN_FLOAT8),
    "deepseek-v3": latent(128, 1536, True),
    "deepseek-v3 in float8": latent(128, 1536, True, **IN_FLOAT8),
    "llama-3-8b": heads(32, 8, 4096),
    "qwen1.5-moe-a2.7b": heads(16, 16, 2048, "bias"),
    "qwen2.5-7b": heads(28, 4, 3584, "bias"),
    "qwen3-30b-a3b": heads(32, 4, 2048, "q_weight", "k_weight"),
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
        taken: dict[str, tuple[Kernel, list[Use]]] = {kernel.stem(): (kernel, uses)}
        for found in uses:
            asked += calls(kernel, found, ROWS, ("decode",))
            for step in kernel.beside(found.op, found.operands):
                made = use(step.kernel, step.op, step.operands, chip)
                taken.setdefault(step.kernel.stem(), (step.kernel, []))[1].append(made)
        for own, its in taken.values():
            for stem in (own.stem(), *own.parts):
                files[f"kernels/{stem}.py"] = kernel_file(own, its, chip, VALUES, part=stem)
    files["kernels/operators.py"] = operators_file(registry.templates["operators.py"], files, 2)
    compiled: list[Compiled] = ahead("project", files, asked, chip, oldest)
    assert {kernel.kernel for kernel in compiled} == {"heads_projection", "latent_projection"}
    for made in compiled:
        assert made.spills == 0, made
        assert made.shared <= chip.shared_memory, made
