"""With what tiles experts in 8 bits are computed, and what that takes."""

from __future__ import annotations

import pytest
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.quantized_experts import QuantizedExperts
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.candidates import use
from kernels.quantized_cases import FLOAT8, types

OURS = "triton.quantized_gemm"
# Experts, experts a token, width, inner width: DeepSeek-V2-Lite's, DeepSeek-V3's, Mixtral's, and
# one that no tile divides.
MODELS = [(64, 6, 2048, 1408), (256, 8, 7168, 2048), (8, 2, 4096, 14336), (5, 3, 200, 136)]
CALLS = [
    *((chip, near) for chip in ("h100", "h200", "b200") for near in (False, True)),
    ("a100", False),
    ("mi300x", False),
]


def operands(experts: int, top_k: int, width: int, inner: int) -> tuple[TensorType, ...]:
    texts = types(experts, top_k, width, inner, FLOAT8, 128)
    return tuple(TensorType.parse(t if t[0] != "[" else f"bfloat16{t}") for t in texts)


@pytest.mark.parametrize(("chip", "near"), CALLS)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_tiles(registry: Registry, model: tuple[int, ...], chip: str, near: bool) -> None:
    experts, top_k, width, inner = model
    kernel, target = registry.kernels[OURS](), registry.targets[chip]
    op, given = QuantizedExperts("silu", activations=near), operands(*model)
    wide = not {"wgmma", "tcgen05"}.isdisjoint(target.features)
    assert kernel.refuses(op, given, target) is None
    for rows in (*kernel.ladder, 100_000):
        found = list(kernel.configs(op, given, rows, target))
        assert 2 <= len(found) <= 24
        assert all(config not in found[:i] for i, config in enumerate(found))
        assert len({config.num_stages for config in found}) > 1
        for config in found:
            tile = config.constants
            assert tile["SORTED"] == (rows > min(tile["BLOCK_M"], 32))
            assert tile["SUMMED"] == (not tile["SORTED"] and "mfma" not in target.features)
            assert tile["GATE_N"] == 128 or not near  # the hidden row's blocks are whole
            assert max(tile["GATE_N"], tile["DOWN_N"]) <= 128  # columns have one scale
            # Two sums as wide as a block and a product of one have the registers of 128 rows.
            assert tile["TURNS"] == 2 or tile["BLOCK_M"] < 128 or not near
            assert tile["TURNS"] == 1 or (wide and tile["BLOCK_M"] >= 64)
            assert not tile["SWAPPED"] or (wide and min(tile["GATE_N"], tile["DOWN_N"]) >= 64)
            if "tma" in target.features:
                aligned = not width % 16 and not inner % 16
                assert tile["DESCRIBED"] == (aligned and tile["BLOCK_M"] > 16)
            else:
                assert "DESCRIBED" not in tile
        tile = found[0].constants
        least = rows if rows <= 32 else 2 * rows * top_k / experts  # of few tokens it takes all
        assert tile["BLOCK_M"] == 16 or tile["BLOCK_M"] < 2 * max(least, 1)
        whole = tile["BLOCK_M"] <= 32 and min(tile["GATE_N"], tile["DOWN_N"]) >= 64
        assert tile["SWAPPED"] == (wide and whole)


def test_a_program_that_is_alone_has_the_whole_memory(registry: Registry) -> None:
    """One token of DeepSeek-V3 has 128 programs of 132 processors for gate and up."""
    kernel, target = registry.kernels[OURS](), registry.targets["h200"]
    op, given = QuantizedExperts("silu", activations=True), operands(*MODELS[1])
    one, several = (next(iter(kernel.configs(op, given, n, target))) for n in (1, 16))
    assert one.num_stages == 2 * (several.num_stages or 0)


@pytest.mark.parametrize(
    ("chip", "near", "calls"),
    [
        ("h200", False, {1: 2, 16: 2, 32: 2, 33: 4, 682: 4, 683: 5}),
        ("h200", True, {1: 3, 32: 3, 33: 5, 683: 6}),
        ("mi300x", False, {1: 3, 32: 3, 33: 4, 683: 5}),
    ],
)
def test_what_it_takes(registry: Registry, chip: str, near: bool, calls: dict[int, int]) -> None:
    kernel, target = registry.kernels[OURS](), registry.targets[chip]
    op = QuantizedExperts("silu", block=Dim.of(128), activations=near)
    given = operands(*MODELS[0])
    for rows, launches in calls.items():
        cost = kernel.cost(op, given, Sizes(1, rows, rows), target)
        assert cost.launches == launches


@pytest.mark.parametrize("chip", ["h200", "b200", "a100", "mi300x"])
def test_float8_is_made_wide_by_whom(registry: Registry, chip: str) -> None:
    """By the target, where it has float8 of this form; else by arithmetic."""
    kernel, target = registry.kernels[OURS](), registry.targets[chip]
    found = use(kernel, QuantizedExperts("silu"), operands(*MODELS[0]), target)
    assert kernel.values((found,), target)["decoded"] == (chip in ("a100", "mi300x"))
