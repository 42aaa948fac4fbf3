"""Experts in PyTorch: each way to run them against their op in float64, with and without rules."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.machine.target import Target
from archsmith.compiler.ops.experts import Experts, FusedExperts
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.code import name
from kernels.checks import emitted

ROUTED = ["[B, T, 7]", "int64[B, T, 2]", "[B, T, 2]"]
WEIGHTS = {
    Experts: ["[5, 4, 7]", "[5, 4, 7]", "[5, 7, 4]", "[5, 4]", "[5, 4]", "[5, 7]"],
    FusedExperts: ["[5, 2, 4, 7]", "[5, 7, 4]", "[5, 2, 4]", "[5, 7]"],
}
KERNELS = {
    (Experts, "cpu"): "torch.experts",
    (FusedExperts, "cpu"): "torch.fused_experts",
    (Experts, "mlir"): "torch.dense_experts",
    (FusedExperts, "mlir"): "torch.dense_fused_experts",
}
RULES = {
    "plain": {},
    "steep": {"alpha": 1.7},
    "clamped": {"clamp": 0.3},
    "all": {"alpha": 1.7, "clamp": 0.5, "up_offset": 1.0},
}


@pytest.mark.parametrize("biased", [False, True])
@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
@pytest.mark.parametrize(("kind", "target"), KERNELS)
def test_experts(kind: type[Op], target: str, rules: dict[str, float], biased: bool) -> None:
    op = kind("gelu", **rules)
    kernel = Registry.installed().kernels[KERNELS[kind, target]]()
    types = typed(kind, None if biased else op.matrices)
    module = emitted(kernel, {op: types}, target)
    values = drawn(types)
    code = kernel.call(op, *map(name, op.operand_names()[: len(types)]), phases=("prefill",))
    wanted = op.reference(*(value.numpy() for value in values))
    given = dict(zip(op.operand_names(), values, strict=False))
    # On a CPU each expert runs on its own rows; a device may do it in other ways.
    for way in ("_sorted", "_gathered", "_masked") if target == "cpu" else ("",):
        with pytest.MonkeyPatch.context() as patch:
            if way:
                patch.setattr(module, "_sorted", getattr(module, way))
            found = eval(code.text, {**vars(module), **given})
        torch.testing.assert_close(found, torch.from_numpy(wanted), rtol=1e-12, atol=1e-12)


def typed(kind: type[Op], matrices: int | None) -> tuple[TensorType, ...]:
    """The types of operands, without biases where only so many matrices are meant."""
    texts = [*ROUTED, *WEIGHTS[kind][:matrices]]
    texts = [text if text.startswith("int64") else f"float64{text}" for text in texts]
    return tuple(map(TensorType.parse, texts))


def drawn(types: tuple[TensorType, ...]) -> list[torch.Tensor]:
    """Operands of these types; the experts of a token are distinct."""
    draw = np.random.default_rng(1)
    shapes = [type.sizes("size", B=2, T=3, S=3) for type in types]
    values = [torch.from_numpy(draw.standard_normal(shape)) for shape in shapes]
    values[1] = torch.from_numpy(draw.random((2, 3, 5)).argsort(-1)[..., :2])
    return values


@pytest.mark.parametrize(
    ("rules", "count", "reason"),
    [
        ({}, 2, None),
        ({"clamp": 7.0}, 2, "computes activation"),
        ({"alpha": 1.702}, 2, "computes activation"),
        ({"up_offset": 1.0}, 2, "computes activation"),
        ({}, 4, "adds no biases"),
    ],
)
def test_triton_refuses_what_it_does_not_compute(
    rules: dict[str, float], count: int, reason: str | None
) -> None:
    registry = Registry.installed()
    kernel, target = registry.kernels["triton.grouped_gemm"](), registry.targets["h200"]
    assert isinstance(target, Target)
    types = tuple(
        replace(type, dtype="bfloat16") if type.dtype == "float64" else type
        for type in typed(FusedExperts, count)
    )
    said = kernel.refuses(FusedExperts("silu", **rules), types, target)
    assert said == reason if reason is None else reason in str(said)
