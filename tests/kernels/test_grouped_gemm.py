"""Grouped experts in Triton: against their op in float64, at any number of rows and experts."""

from __future__ import annotations

import numpy as np
import pytest
from kernels.checks import differ
from kernels.expert_cases import CLOSE, changed, run, single

# Rows, experts, experts a token, width, inner width. Up to 32 rows no table is made.
SHAPES = [
    (1, 8, 2, 32, 32),  # a choice a tile
    (1, 2, 2, 16, 16),  # an expert a tile
    (1, 64, 6, 40, 24),
    (2, 5, 3, 17, 33),
    (2, 64, 1, 96, 16),
    (3, 8, 5, 20, 80),
    (15, 8, 2, 48, 16),
    (15, 2, 1, 33, 65),
    (16, 12, 6, 16, 16),
    (16, 5, 4, 64, 96),
    (17, 8, 2, 32, 40),
    (33, 12, 3, 16, 48),
    (17, 2, 2, 70, 16),
    (40, 5, 5, 24, 24),
    (65, 5, 1, 32, 16),
    (45, 8, 6, 16, 31),
    (65, 2, 1, 80, 33),  # more rows of an expert than float32 has in a tile
    (100, 2, 2, 16, 16),
    (130, 8, 1, 40, 24),
    (34, 20, 4, 16, 16),
    (270, 2, 1, 24, 17),  # several tiles of 128
]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_grouped_experts(shape: tuple[int, ...], dtype: str) -> None:
    assert differ(*run(*shape, dtype=dtype)) < CLOSE[dtype]


# Tiles as wide as many rows get them: weights through descriptors, and as a product's rows.
WIDE = [
    (1, 1, 1, 16, 16),
    (1, 3, 1, 72, 136),
    (1, 9, 8, 16, 64),
    (2, 2, 1, 136, 16),
    (5, 1, 1, 65, 24),
    (7, 3, 3, 24, 40),
    (16, 1, 1, 136, 80),
    (16, 2, 1, 64, 64),
    (17, 1, 1, 64, 128),
    (18, 2, 1, 136, 72),
    (20, 3, 2, 72, 64),
    (23, 9, 8, 16, 24),
    (24, 2, 2, 65, 32),  # rows of no whole 16 bytes have no descriptor
    (27, 1, 1, 264, 16),
    (31, 2, 2, 32, 65),
    (32, 1, 1, 40, 136),
    (32, 5, 1, 24, 24),
    (32, 9, 8, 16, 8),
    (33, 1, 1, 64, 64),
    (34, 2, 1, 24, 72),
    (40, 3, 3, 24, 16),
    (50, 2, 2, 32, 24),
    (64, 1, 1, 136, 40),
    (65, 2, 1, 33, 20),
    (66, 1, 1, 32, 136),
    (90, 2, 2, 16, 24),
    (128, 1, 1, 72, 16),
    (129, 1, 1, 16, 72),
    (140, 2, 1, 40, 16),
    (3, 256, 8, 16, 16),
]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", WIDE, ids=str)
def test_wide_tiles(shape: tuple[int, ...], dtype: str) -> None:
    assert differ(*run(*shape, dtype=dtype, target=single("h200"))) < CLOSE[dtype]


@pytest.mark.parametrize("target", ["a100", "b200", "mi300x"])
@pytest.mark.parametrize("shape", [(5, 3, 2, 136, 72), (25, 2, 1, 72, 136), (70, 2, 2, 136, 72)])
def test_wide_tiles_of_other_targets(target: str, shape: tuple[int, ...]) -> None:
    found = run(*shape, dtype="float16", target=single(target))
    assert differ(*found) < CLOSE["float16"]


def test_operands_that_are_parts_of_wider_rows() -> None:
    for rows in (3, 40):
        found = run(rows, 4, 2, 64, 72, dtype="float16", part_of={"x": 80, "weight": 5, "index": 7})
        assert differ(*found) < CLOSE["float16"]


def test_weights_that_no_descriptor_can_name() -> None:
    """Those that do not begin at 16 bytes: read by pointers, in the same tiles."""
    aligned = ("(gate_up.data_ptr() | down.data_ptr()) % 16 == 0", "False")
    shape, target = (20, 4, 2, 136, 72), single("h200")
    one = run(*shape, dtype="float16", target=target)[0]
    other = run(*shape, dtype="float16", target=target, edit=changed(aligned))[0]
    np.testing.assert_array_equal(one, other)


# Rows, experts, experts a token, of which so many are always used: by choice, by expert, sorted.
@pytest.mark.parametrize(
    "shape", [(1, 12, 5, 1), (9, 5, 4, 2), (16, 4, 2, 1), (40, 6, 4, 2), (66, 5, 3, 1)], ids=str
)
def test_experts_that_are_always_used(shape: tuple[int, ...]) -> None:
    rows, experts, top_k, always = shape
    for dtype, error in CLOSE.items():
        found = run(rows, experts, top_k, 40, 24, always=always, dtype=dtype)
        assert differ(*found) < error


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu"])
def test_activations(activation: str) -> None:
    assert differ(*run(20, 3, 2, 32, 32, activation=activation)) < CLOSE["float32"]


# Experts that no token chose: all but one, the first and the last, all but the first or the last.
@pytest.mark.parametrize("chosen", [(3,), (1, 2, 4, 6), (0,), (7,)], ids=str)
@pytest.mark.parametrize("rows", [5, 48, 129])
def test_experts_that_have_no_tokens(rows: int, chosen: tuple[int, ...]) -> None:
    top_k = min(len(chosen), 2)
    found = run(rows, 8, top_k, 32, 32, dtype="float16", chosen=chosen)
    assert differ(*found) < CLOSE["float16"]


@pytest.mark.parametrize("target", ["a100", "b200", "mi300x"])
@pytest.mark.parametrize("rows", [1, 70])
def test_other_targets_have_other_tiles(target: str, rows: int) -> None:
    assert differ(*run(rows, 3, 2, 140, 68, dtype="float16", target=target)) < CLOSE["float16"]


def test_a_batch_is_rows() -> None:
    assert differ(*run(24, 5, 2, 32, 32, batch=3)) < CLOSE["float32"]


def test_the_same_call_gives_the_same_bits() -> None:
    first, again = (run(40, 5, 3, 48, 40, dtype="float16")[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)
