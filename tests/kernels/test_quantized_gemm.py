"""Experts in 8 bits in Triton: against their op in float64, at any number of rows and experts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.quantized_experts import QuantizedExperts
from kernels.checks import Results, differ, holds, registry
from kernels.expert_cases import changed, choices
from kernels.quantized_cases import CLOSE, FLOAT8, run

FORMATS: dict[str, dict[str, Any]] = {
    "float8": {},
    "float8 in float32": {"dtype": "float32"},
    "int8": {"format": "int8"},
    "activations": {"near": True},
}

# Rows, experts, experts a token, width, inner width; blocks are of 32.
SHAPES = [
    (1, 8, 2, 32, 32),  # a choice a tile
    (1, 2, 2, 16, 64),  # an expert a tile
    (1, 20, 3, 40, 24),
    (2, 4, 3, 17, 33),
    (3, 3, 2, 70, 40),
    (15, 2, 1, 33, 65),
    (16, 4, 3, 16, 16),
    (16, 2, 1, 96, 20),
    (17, 3, 2, 32, 40),  # sorted from here on
    (18, 2, 2, 70, 16),
    (24, 3, 2, 24, 24),
    (33, 4, 1, 16, 31),
    (40, 2, 1, 48, 33),
    (70, 1, 1, 16, 17),  # several tiles
]


@pytest.mark.parametrize("format", ["float8", "activations"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_experts_in_float8(shape: tuple[int, ...], format: str) -> None:
    assert differ(*run(*shape, **FORMATS[format])) < CLOSE["float16"]


@pytest.mark.parametrize("shape", SHAPES[::2], ids=str)
def test_experts_in_int8(shape: tuple[int, ...]) -> None:
    assert differ(*run(*shape, format="int8")) < CLOSE["float16"]


@pytest.mark.parametrize("shape", SHAPES[3::3], ids=str)
def test_experts_in_float32(shape: tuple[int, ...]) -> None:
    assert differ(*run(*shape, dtype="float32")) < CLOSE["float32"]


@pytest.mark.parametrize("format", FORMATS)
def test_blocks_of_128(format: str) -> None:
    options = FORMATS[format] | {"block": 128}
    close = CLOSE[options.get("dtype", "float16")]
    assert differ(*run(3, 2, 1, 136, 130, **options)) < close


@pytest.mark.parametrize("format", ["float8", "float8 in float32"])
def test_what_is_no_number_is_none(format: str) -> None:
    """Of the tokens that use its expert, and of no others. What a GPU multiplies as it is, with
    activations, Triton's interpreter widens as if it were a number."""
    (found,), _ = run(6, 4, 1, 40, 40, wrong=(2, 5), **FORMATS[format])
    lost = choices(np.random.default_rng(1), 6, 4, 1, 0, None)[:, 0] == 2
    assert 0 < lost.sum() < len(lost)
    assert np.array_equal(np.isnan(found[0]).all(-1), lost)
    assert not np.isnan(found[0][~lost]).any()


@pytest.mark.parametrize("target", ["a100", "b200", "mi300x"])
def test_other_targets_have_other_tiles(target: str) -> None:
    for format, rows in ((FLOAT8, 40), ("int8", 1)):
        found = run(rows, 2, 1, 72, 40, format=format, target=target)
        assert differ(*found) < CLOSE["float16"]


def test_experts_that_are_always_used_and_that_none_chose() -> None:
    for near, rows in ((False, 3), (True, 20)):
        found = run(rows, 5, 2, 40, 24, near=near, always=1, chosen=(1, 3))
        assert differ(*found) < CLOSE["float16"]


@pytest.mark.parametrize("activation", ["gelu_tanh", "relu"])
def test_activations(activation: str) -> None:
    found = run(20, 3, 2, 32, 32, activation=activation, dtype="float32", near=True)
    assert differ(*found) < CLOSE["float32"]


def test_the_same_call_gives_the_same_bits() -> None:
    first, again = (run(17, 3, 2, 40, 24, near=True)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)


BROKEN = {
    "a scale is left out": ('"ieee") * tl.load(scale_at)', '"ieee")'),
    "scales are the first block's": ("at, scale_row + block", "at, scale_row"),
    "up has the scales of gate": ("scale_row + tall * blocks + block", "scale_row + block"),
    "columns have the first block's scale": ("column * BLOCK_N // BLOCK * blocks", "0"),
    "experts share their scales": ("scale_ptr + expert * (", "scale_ptr + 0 * ("),
    "an expert has half as many": ("((2 if gated else 1) * tall", "(tall"),
    "a sign is lost": ("(weight & 128)", "(weight & 0)"),
    "all are twice as large": ("[], 256.0,", "[], 512.0,"),
    "a bit of each is lost": ("<< 7)", "<< 7) & 0xFF00"),
    "up is gate": ("at += OUT * IN", "at += 0"),
    "a step reads what the first did": ("block * BLOCK + tl.arange", "0 * BLOCK + tl.arange"),
    "x is read past its row": ("mask=live & (k < IN)[None, :]", "mask=live"),
    "columns past the last are written": ("mask=live & (col < OUT)", "mask=live"),
    "rows past the last are written": ("mask=live & (col < OUT)", "mask=col < OUT"),
    "the last columns are left out": ("triton.cdiv(F, gate_n)", "(F // gate_n)"),
    "gate is not activated": ("y * tl.sigmoid(y) * up", "y * up"),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_caught(change: tuple[str, str]) -> None:
    assert not holds(lambda edit: run(17, 2, 1, 40, 40, edit=edit), changed(change), 2e-3)


BROKEN_OF_ACTIVATIONS = {
    "x has no scale": ("(x_scale * tl.load(scale_at))", "tl.load(scale_at)"),
    "weights have none": ("(x_scale * tl.load(scale_at))", "x_scale"),
    "x has its first block's": ("row * blocks + block, mask=live", "row * blocks, mask=live"),
    "x has its first token's": ("x_scale_ptr + row * blocks", "x_scale_ptr + row * 0"),
    "every scale is one": ("tl.where(top > 0", "tl.where(top < 0"),
    "a scale is of numbers, not of magnitudes": ("tl.max(tl.abs(x), 1)", "tl.max(x, 1)"),
    "hidden rows keep one scale": ("choice * columns + column, scale", "choice * columns, scale"),
    "hidden rows are not in its units": ("y = tl.div_rn(y,", "y = y + 0 * tl.div_rn(y,"),
    "some blocks of x are left out": ("triton.cdiv(blocks, some)", "(blocks // some)"),
    "scales are spaced like rows": ("row * blocks + block, scale", "row * IN + block, scale"),
}


@pytest.mark.parametrize("change", BROKEN_OF_ACTIVATIONS.values(), ids=BROKEN_OF_ACTIVATIONS)
def test_what_is_broken_of_activations_is_caught(change: tuple[str, str]) -> None:
    def once(edit: Any) -> tuple[Results, Results]:
        return run(17, 2, 1, 40, 40, near=True, edit=edit)

    assert not holds(once, changed(change), 2e-3)


def test_what_is_whole_holds() -> None:
    """The runs that are broken above, as they are."""
    assert differ(*run(17, 2, 1, 40, 40)) < 2e-3
    assert differ(*run(17, 2, 1, 40, 40, near=True)) < 2e-3


def test_rounding_what_is_multiplied_is_part_of_it() -> None:
    """So tolerances are tight enough to tell."""
    found, _ = run(17, 2, 1, 40, 40)
    _, wanted = run(17, 2, 1, 40, 40, near=True)
    assert differ(found, wanted) > 1e-2


@pytest.mark.parametrize(
    ("target", "changes", "reason"),
    [
        ("mi300x", {"activations": True}, "multiplies no numbers of E4M3"),
        ("a100", {"activations": True}, "multiplies no numbers of E4M3"),
        ("h200", {"block": Dim.of(96)}, "blocks of 96 are no tiles"),
        ("h200", {"clamp": 2.0}, "activation(gate) * up and no more"),
        ("cpu", {}, "has no Triton"),
    ],
)
def test_refusals(target: str, changes: dict[str, Any], reason: str) -> None:
    x, choice = TensorType.parse("bfloat16[B, T, 96]"), TensorType.parse("int64[B, T, 2]")
    matrices = [TensorType.parse(f"{FLOAT8}[4, {end}]") for end in ("2, 96, 96", "96, 96")]
    scales = [TensorType.parse(f"float32[4, {end}]") for end in ("2, 1, 1", "1, 1")]
    operands = (x, choice, TensorType.parse("float32[B, T, 2]"), *matrices, *scales)
    op = QuantizedExperts("silu", **changes)
    refusal = (
        registry()
        .kernels["triton.quantized_gemm"]()
        .refuses(op, operands, registry().targets[target])
    )
    assert refusal is not None
    assert reason in refusal
