"""When experts are given to Triton, with what tiles, and what the operator does on a CPU."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from archsmith.compiler.driver import Compiler
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.experts import FusedExperts
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.plan import Plan
from kernels.checks import emitted

EXAMPLES = Path(__file__).parents[2] / "examples"
OURS = "triton.grouped_gemm"
# Experts, experts a token, width, inner width: DeepSeek-V2-Lite's, Qwen3-30B's, DeepSeek-V3's,
# Mixtral's, and one that no tile divides.
MODELS = [
    (64, 6, 2048, 1408),
    (128, 8, 2048, 768),
    (256, 8, 7168, 2048),
    (8, 2, 4096, 14336),
    (5, 3, 200, 90),
]
CHIPS = ("a100", "h100", "h200", "b200", "mi300x")


def types(
    experts: int, top_k: int, width: int, inner: int, dtype: str = "bfloat16"
) -> tuple[TensorType, ...]:
    texts = (
        f"{dtype}[B, T, {width}]",
        f"int64[B, T, {top_k}]",
        f"float32[B, T, {top_k}]",
        f"{dtype}[{experts}, 2, {inner}, {width}]",
        f"{dtype}[{experts}, {width}, {inner}]",
    )
    return tuple(map(TensorType.parse, texts))


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_tiles(registry: Registry, model: tuple[int, ...], chip: str) -> None:
    experts, top_k, width, inner = model
    kernel, target = registry.kernels[OURS](), registry.targets[chip]
    assert kernel.refuses(FusedExperts("silu"), types(*model), target) is None
    for rows in (*kernel.ladder, 100_000):
        config = next(iter(kernel.configs(FusedExperts("silu"), types(*model), rows, target)))
        tile = config.constants
        assert all(tile[n] == 1 << tile[n].bit_length() - 1 for n in ("BLOCK_M", "BLOCK_K"))
        least = rows if rows <= 32 else 2 * rows * top_k / experts  # of few tokens it takes all
        assert tile["BLOCK_M"] == 16 or tile["BLOCK_M"] < 2 * max(least, 1)
        assert tile["SORTED"] == (rows > min(tile["BLOCK_M"], 32))
        assert tile["SUMMED"] == (not tile["SORTED"] and "mfma" not in target.features)
        if not width % 128 and not inner % 128:  # then nothing is masked
            assert not width % tile["BLOCK_K"]
            assert not inner % tile["BLOCK_K"]
        columns = max(2 * tile["GATE_N"], tile["DOWN_N"])
        step = 2 * (tile["BLOCK_M"] + columns) * tile["BLOCK_K"]
        assert step * (config.num_stages or 0) <= 2 * target.shared_memory
        # Weights are a product's rows, and copied by the GPU, where that frees something.
        wide = not {"wgmma", "tcgen05"}.isdisjoint(target.features)
        whole = tile["BLOCK_M"] == 32 and min(tile["GATE_N"], tile["DOWN_N"]) >= 64
        assert tile["SWAPPED"] == (wide and whole)
        if "tma" in target.features:
            aligned = not width % 8 and not inner % 8
            assert tile["DESCRIBED"] == (aligned and tile["BLOCK_M"] > 16)
        else:
            assert "DESCRIBED" not in tile
        if rows == 1 and min(width, inner) >= 768:  # a program for nearly every processor
            programs = top_k * math.ceil(inner / tile["GATE_N"])
            assert programs > 0.7 * target.processors or tile["GATE_N"] <= 32


@pytest.mark.parametrize("chip", CHIPS)
def test_there_is_a_short_list(registry: Registry, chip: str) -> None:
    """For whoever measures: few, all unlike, that differ in what cannot be told from here."""
    kernel, target = registry.kernels[OURS](), registry.targets[chip]
    for rows in (1, 20, 64, 512, 4096):
        found = list(kernel.configs(FusedExperts("silu"), types(*MODELS[0]), rows, target))
        assert 4 <= len(found) <= 24
        assert all(config not in found[:i] for i, config in enumerate(found))
        assert len({config.constants["BLOCK_M"] for config in found}) > 1
        assert len({config.num_stages for config in found}) > 1
        for config in found:
            assert config.constants["SORTED"] == (rows > min(config.constants["BLOCK_M"], 32))


@pytest.mark.parametrize("chip", CHIPS)
def test_experts_that_are_always_used_change_no_tile(registry: Registry, chip: str) -> None:
    """A tile has as many rows as an expert that is chosen; those that are not fill several."""
    kernel, target = registry.kernels[OURS](), registry.targets[chip]
    with_others = FusedExperts("silu", always=Dim.of(1))
    for rows in (*kernel.ladder, 100_000):
        sizes = types(256, 8, 7168, 2048), types(257, 9, 7168, 2048)
        one, other = (
            next(iter(kernel.configs(op, operands, rows, target))).constants["BLOCK_M"]
            for op, operands in zip((FusedExperts("silu"), with_others), sizes, strict=True)
        )
        assert one == other


def test_refusals(registry: Registry) -> None:
    kernel, op, model = registry.kernels[OURS](), FusedExperts("silu"), types(8, 2, 64, 32)
    h200, cpu = registry.targets["h200"], registry.targets["cpu"]
    assert kernel.refuses(op, model, h200) is None
    assert "no Triton" in (kernel.refuses(op, model, cpu) or "")
    assert "float64" in (kernel.refuses(op, types(8, 2, 64, 32, "float64"), h200) or "")
    assert "activation" in (kernel.refuses(FusedExperts("mish"), model, h200) or "")
    assert "too large" in (kernel.refuses(op, types(8, 2, 1 << 15, 1 << 15), h200) or "")
    small = replace(h200, shared_memory=4096)
    assert "shared memory of 4096" in (kernel.refuses(op, types(8, 2, 2048, 768), small) or "")


@pytest.mark.parametrize(
    ("chip", "calls"),
    [
        ("h200", {1: 2, 16: 2, 32: 2, 33: 4, 682: 4, 683: 5, 4096: 5}),
        ("mi300x", {1: 3, 32: 3, 33: 4, 4096: 5}),
    ],
)
def test_what_it_takes(registry: Registry, chip: str, calls: dict[int, int]) -> None:
    """Beside the op's own: the hidden rows and the results, written and read, and its launches."""
    kernel, op, target = registry.kernels[OURS](), FusedExperts("silu"), registry.targets[chip]
    operands = types(64, 6, 2048, 1408)
    for rows, launches in calls.items():
        sizes = Sizes(1, rows, rows)
        cost, own = kernel.cost(op, operands, sizes, target), op.cost(sizes, *operands)
        assert cost.flops == own.flops
        assert cost.bytes - own.bytes == rows * 6 * (1408 + 2048) * 2 * 2
        assert cost.launches == launches


def scheduled(passes: tuple[str, ...] | None) -> Plan:
    compiler = Compiler.installed("h200", numeric=False)
    spec = compiler.load(EXAMPLES / "deepseek-v2-lite.yaml")
    model, _ = compiler.rewrite(compiler.build(spec), compiler.passes(passes)[1])
    return compiler.schedule(model)


def test_experts_are_given_to_it_once_they_are_packed() -> None:
    packed = [c for c in scheduled(None).choices if c.op.name == "fused_experts"]
    assert {(c.phase, c.kernel.name) for c in packed} == {
        (phase, OURS) for phase in ("train", "prefill", "decode")
    }
    listed = [
        c for c in scheduled(("fuse-expert-gate-up",)).choices if c.op.name == "fused_experts"
    ]
    assert listed
    for choice in listed:
        assert choice.kernel.name == "torch.fused_experts"
        assert "not packed" in dict(choice.refusals)[OURS]


def test_on_a_cpu_and_for_gradients_it_is_its_path_in_pytorch(registry: Registry) -> None:
    module = emitted(registry.kernels[OURS](), {FusedExperts("silu"): types(4, 2, 32, 16)}, "h200")
    torch.manual_seed(0)
    index = torch.stack([torch.randperm(4)[:2] for _ in range(20)]).view(2, 10, 2)
    shapes = ((2, 10, 32), (2, 10, 2), (4, 2, 16, 32), (4, 32, 16))

    def gradients(function: object) -> list[torch.Tensor]:
        torch.manual_seed(1)
        # Of a size that keeps results near one: what cancels says nothing in float32.
        x, weight, gate_up, down = (torch.randn(s) * s[-1] ** -0.5 for s in shapes)
        for tensor in (x, weight, gate_up, down):
            tensor.requires_grad_()
        assert callable(function)
        y = function(x, index, weight, gate_up, down, activation="silu")
        y.square().sum().backward()
        return [y.detach(), *(t.grad for t in (x, weight, gate_up, down))]

    wanted = gradients(module.fused_experts)
    for found in (gradients(module.grouped_experts), gradients(module.grouped_experts.registered)):
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
