"""Experts in 8 bits in Triton: against their op in float64, at any number of rows and experts."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
import pytest
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.quantized_experts import QuantizedExperts
from kernels.checks import differ, registry
from kernels.expert_cases import changed, choices, single
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
    (17, 3, 2, 32, 40),
    (18, 2, 2, 70, 16),
    (32, 3, 2, 24, 24),
    (33, 4, 1, 16, 31),  # sorted from here on
    (40, 2, 1, 48, 33),
    (130, 1, 1, 16, 17),  # several tiles
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


# Each in one of the formats.
MORE = [
    # one token; one expert
    *((1, experts, top_k, 16, 16) for experts, top_k in ((1, 1), (3, 1), (4, 4), (64, 6))),
    *((rows, 1, 1, 16, 24) for rows in (2, 15, 16, 17, 31, 32, 33, 34, 63, 64, 65)),
    # 256 experts, most of which have no token
    *((rows, 256, 8, 16, 16) for rows in (1, 2, 3, 4)),
    # tails of rows, of columns and of blocks
    *((rows, 2, 1, 33, 31) for rows in (3, 4, 31, 47, 66)),
    *((rows, 5, 3, 65, 17) for rows in (5, 16, 35)),
    *((rows, 3, 3, 24, 64) for rows in (7, 11, 32, 48)),
]


@pytest.mark.parametrize(
    ("shape", "format"), list(zip(MORE, cycle(FORMATS), strict=False)), ids=str
)
def test_more_experts_and_rows(shape: tuple[int, ...], format: str) -> None:
    options = FORMATS[format]
    assert differ(*run(*shape, **options)) < CLOSE[options.get("dtype", "float16")]


# Experts that no token chose: all but one, the first and the last, all but the first or the last.
@pytest.mark.parametrize(
    ("rows", "chosen", "format"),
    [
        (5, (3,), "activations"),
        (48, (1, 2, 4, 6), "int8"),
        (48, (0,), "activations"),
        (5, (7,), "int8"),
    ],
)
def test_experts_that_have_no_tokens(rows: int, chosen: tuple[int, ...], format: str) -> None:
    found = run(rows, 8, min(len(chosen), 2), 24, 16, chosen=chosen, **FORMATS[format])
    assert differ(*found) < CLOSE["float16"]


def test_eight_of_256_experts_have_all_tokens() -> None:
    found = run(33, 256, 8, 16, 16, chosen=(0, 7, 8, 100, 127, 128, 200, 255))
    assert differ(*found) < CLOSE["float16"]


@pytest.mark.parametrize("format", FORMATS)
def test_operands_that_are_parts_of_wider_rows(format: str) -> None:
    options = FORMATS[format] | {"part_of": {"x": 56, "weight": 5, "index": 7}}
    for rows in (1, 40):
        found = run(rows, 3, 2, 40, 24, **options)
        assert differ(*found) < CLOSE[options.get("dtype", "float16")]


# Blocks of 64 have weights as a product's rows up to 32, and through descriptors above 16.
WIDE = [
    (1, 3, 2, 64, 128),
    (16, 2, 1, 80, 64),
    (17, 3, 2, 64, 80),
    (32, 2, 1, 72, 64),  # rows of no whole 16 bytes have no descriptor
    (33, 3, 2, 80, 144),
]


@pytest.mark.parametrize("format", ["float8", "int8", "activations"])
@pytest.mark.parametrize("shape", WIDE, ids=str)
def test_wide_tiles(shape: tuple[int, ...], format: str) -> None:
    found = run(*shape, block=64, target=single("h200"), **FORMATS[format])
    assert differ(*found) < CLOSE["float16"]


@pytest.mark.parametrize("format", ["float8", "activations"])
@pytest.mark.parametrize("rows", [20, 70])
def test_all_tokens_use_one_expert(rows: int, format: str) -> None:
    found = run(rows, 3, 1, 64, 64, block=64, chosen=(1,), **FORMATS[format])
    assert differ(*found) < CLOSE["float16"]


def test_weights_that_no_descriptor_can_name() -> None:
    """Those that do not begin at 16 bytes: read by pointers, in the same tiles."""
    aligned = ("(gate_up.data_ptr() | down.data_ptr()) % 16 == 0", "False")
    shape, options = (20, 4, 2, 144, 80), {"block": 64, "near": True, "target": single("h200")}
    one = run(*shape, **options)[0]
    other = run(*shape, **options, edit=changed(aligned))[0]
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("format", FORMATS)
def test_blocks_of_128(format: str) -> None:
    options = FORMATS[format] | {"block": 128}
    close = CLOSE[options.get("dtype", "float16")]
    assert differ(*run(3, 2, 1, 136, 130, **options)) < close


@pytest.mark.parametrize("format", ["float8", "float8 in float32"])
def test_what_is_no_number_is_none(format: str) -> None:
    """Of the tokens that use its expert, and of no others. What a GPU itself multiplies or makes
    wide, as one that has float8 does, Triton's interpreter widens as if it were a number."""
    (found,), _ = run(6, 4, 1, 40, 40, wrong=(2, 5), target="a100", **FORMATS[format])
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


@pytest.mark.parametrize("rows", [17, 33])
def test_the_same_call_gives_the_same_bits(rows: int) -> None:
    first, again = (run(rows, 3, 2, 40, 24, near=True)[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)


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
