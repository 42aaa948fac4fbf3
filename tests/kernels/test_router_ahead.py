"""Choices of experts of few rows compiled ahead of time, normed or not, for published models."""

from __future__ import annotations

import pytest
from archsmith.compiler.emit.aot import Compiled, calls
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.machine.target import Target
from archsmith.compiler.ops.moe import NormRouter, Router
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.candidates import use
from kernels.checks import VALUES
from kernels.recorded import Ahead

# Experts, width, the dtype of the weight, how a bias is used, and the rules.
MODELS = {
    "deepseek-v2-lite": (64, 2048, "float32", "", {"score": "softmax", "top_k": 6, "always": 2}),
    "qwen3-30b-a3b": (
        *(128, 2048, "bfloat16", ""),
        {"score": "softmax", "top_k": 8, "normalize": True},
    ),
    "gpt-oss-20b": (
        *(32, 2880, "bfloat16", "logits"),
        {"score": "softmax", "top_k": 4, "normalize": True},
    ),
    "deepseek-v3": (
        *(256, 7168, "float32", "choice"),
        {
            "score": "sigmoid",
            "top_k": 8,
            "groups": 8,
            "top_groups": 4,
            "always": 1,
            "group_score": "top2_sum",
            "normalize": True,
            "scale": 2.5,
        },
    ),
}
COUNTS = ("top_k", "groups", "top_groups", "always")
ROWS = (1, 2, 8, 16)


def compiled(ahead: Ahead, model: str, chip: Target, oldest: bool) -> list[Compiled]:
    """What both kinds of router of a model launch for few rows; and more of one with a bias that
    no other test compiles."""
    experts, width, dtype, bias_of, rules = MODELS[model]
    counted = {key: Dim.of(value) if key in COUNTS else value for key, value in rules.items()}
    named = {**counted, **({"bias_of": bias_of} if bias_of else {})}
    x, gain = f"bfloat16[B, T, {width}]", f"bfloat16[{width}]"
    weight = f"{dtype}[{experts}, {width}]"
    bias = [f"{'bfloat16' if bias_of == 'logits' else 'float32'}[{experts}]"] if bias_of else []
    norm = (NormRouter(**named, eps=1e-6), [x, x, gain, weight, *bias])
    plain = (Router(**named), [x, weight, *bias])
    files, uses, asked = {"kernels/__init__.py": ""}, [], []
    for kernel, (op, types) in (("router", plain), ("norm_router", norm)):
        family = ahead.registry.kernels[f"triton.{kernel}"]()
        found = use(family, op, tuple(map(TensorType.parse, types)), chip)
        assert family.refuses(found.op, found.operands, chip) is None
        uses.append(found)
        rows = (*ROWS, 128, 4096) if bias_of == "logits" and kernel == "router" else ROWS
        asked += calls(family, found, [Sizes(count, 1, 4096) for count in rows], ("decode",))
    (step,) = family.beside(op, found.operands)
    norms = use(step.kernel, step.op, step.operands, chip)
    files[f"kernels/{step.kernel.stem()}.py"] = kernel_file(step.kernel, [norms], chip, VALUES)
    asked += calls(step.kernel, norms, [Sizes(ROWS[-1], 1, 4096)], ("decode",))
    for stem in (family.stem(), *family.parts):
        files[f"kernels/{stem}.py"] = kernel_file(family, uses, chip, VALUES, part=stem)
    for name in ("norm_router", "router"):
        family = ahead.registry.kernels[f"torch.{name}"]()
        text = kernel_file(family, uses[-1:], chip, VALUES)
        files[f"kernels/{family.stem()}.py"] = text
    files["kernels/operators.py"] = operators_file(
        ahead.registry.templates["operators.py"], files, 2
    )
    return ahead(f"routed-{model}", files, asked, chip, oldest)


@pytest.mark.parametrize("oldest", [False, True], ids=["newest", "oldest"])
@pytest.mark.parametrize("target", ["a100", "h200", "b200", "mi300x"])
@pytest.mark.parametrize("model", MODELS)
def test_published_sizes(
    ahead: Ahead, registry: Registry, model: str, target: str, oldest: bool
) -> None:
    chip = registry.targets[target]
    found = compiled(ahead, model, chip, oldest)
    few = [kernel for kernel in found if kernel.kernel == "route_few"]
    assert {kernel.options["M"] for kernel in few} == {1, 16}
    # Where each program of so many would take too long to norm all rows for itself.
    assert "_add_rms_norm" in {kernel.kernel for kernel in found}
    for kernel in found:
        assert kernel.spills == 0, kernel
        assert kernel.shared <= chip.shared_memory, kernel
        if kernel.kernel == "route_few":  # one row is no matrix
            assert bool(kernel.instructions) == (kernel.options["M"] == 16), kernel
