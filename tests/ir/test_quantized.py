"""Weights in 8 bits: rounding as PyTorch's, scales of blocks, and programs that make them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from archsmith.compiler.errors import GraphError
from archsmith.compiler.ir.computed import computed, gains
from archsmith.compiler.ir.dims import TWO, Dim
from archsmith.compiler.ir.model import Block, Param
from archsmith.compiler.ir.quantized import (
    BLOCK,
    LARGEST,
    BlockScales,
    Quantize,
    inward,
    rounded,
    scales_of,
    spread,
)
from archsmith.compiler.ir.tokens import Tokens
from archsmith.compiler.ir.weights import Concat, Program, Ref, Slice, Stack, Transpose, Unflatten
from archsmith.compiler.rewrite.check import check_weights

F, D, E = Dim(300, 7), Dim(200, 5), Dim(3, 2)
GATE, UP = (Ref(f"e.{{expert}}.{name}", (F, D)) for name in ("gate", "up"))
GATE_UP = Stack(Unflatten(Concat((GATE, UP), 0), 0, (TWO, F)), "expert", E)
FLOAT8 = "float8_e4m3fn"


def read(name: str, shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(list(name.encode())).standard_normal(shape)


def test_rounding_is_that_of_pytorch() -> None:
    """Of every number of E4M3, what lies between it and the next, and the middle."""
    table = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn).double()
    known = table[~table.isnan()].sort().values
    between = [known[:-1] * (1 - t) + known[1:] * t for t in (0.25, 0.5, 0.75)]
    x = torch.cat((known, *between)).float()  # all of these are numbers of float32
    wanted = x.to(torch.float8_e4m3fn).double().numpy()
    np.testing.assert_array_equal(rounded(x.double().numpy(), FLOAT8), wanted)
    assert LARGEST[FLOAT8] == torch.finfo(torch.float8_e4m3fn).max
    near = np.array([17 * (1 + 1e-12), 17.0, 19.0])  # float32 would make the first a tie
    assert rounded(near, FLOAT8).tolist() == [18, 16, 20]
    assert rounded(np.array([-0.5, 1.5, 126.7]), "int8").tolist() == [0, 2, 127]


@pytest.mark.parametrize("dtype", LARGEST)
def test_a_block_is_in_units_of_its_largest(dtype: str) -> None:
    x = read("x", (2, 300, 200))
    x[0, :128, :128] = 0
    scales = scales_of(x, dtype, 128)
    values = rounded(x / spread(scales, x.shape, 128), dtype)
    assert scales.shape == (2, 3, 2)
    assert scales[0, 0, 0] == 1
    assert scales[1, 2, 1] == np.abs(x[1, 256:, 128:]).max() / LARGEST[dtype]
    assert np.abs(values[1, 256:, 128:]).max() == LARGEST[dtype]
    worst = np.abs(values * spread(scales, x.shape, 128) - x).max() / np.abs(x).max()
    assert worst < {FLOAT8: 1 / 28, "int8": 1 / 250}[dtype]  # half of the largest step


@pytest.mark.parametrize("make", [Quantize, BlockScales])
@pytest.mark.parametrize(
    "of",
    [
        GATE_UP,
        Stack(GATE, "expert", E),
        Concat((Stack(GATE, "expert", E), Ref("more", (TWO, F, D))), 0),
    ],
    ids=["fused", "stacked", "joined"],
)
def test_computed_nearer_to_the_tensors_it_is_the_same(make: Any, of: Program) -> None:
    program: Any = make(of, FLOAT8, BLOCK)
    nearer = inward(program)
    assert nearer != program
    assert nearer.shape == program.shape
    for which in ("size", "probe"):
        wanted = program.evaluate(which, read, {})
        assert wanted.shape == tuple(d.at(which) for d in program.shape)
        np.testing.assert_array_equal(nearer.evaluate(which, read, {}), wanted)


def test_what_cuts_through_blocks_stays_inside() -> None:
    parts = [
        Slice(GATE, 0, Dim(40, 2), Dim(80, 3)),
        Transpose(GATE, (1, 0)),
        Concat((GATE, UP), 1),
        Concat((GATE, UP), 0),
    ]
    for part in parts:
        program = Quantize(part, FLOAT8, BLOCK)
        assert inward(program) is program


def test_programs_are_text() -> None:
    for program in (Quantize(GATE_UP, "int8", BLOCK), BlockScales(GATE, FLOAT8, Dim(64, 2))):
        tokens = Tokens(str(program))
        assert tokens.program() == program
        tokens.end()


def test_a_tensor_is_held_by_its_numbers_and_only_told_by_its_scales() -> None:
    of = Stack(GATE, "expert", E)
    numbers, scales = Quantize(of, FLOAT8, BLOCK), BlockScales(of, FLOAT8, BLOCK)
    assert list(gains(scales)) == [of]
    before = Block("b", {"w": Param(of, "float32")})
    both = {"w": Param(numbers, FLOAT8), "s": Param(scales, "float32")}
    check_weights(before, Block("b", both), "lossy")
    twice = {**both, "again": Param(of, "float32")}
    with pytest.raises(Exception, match="held more than once"):
        check_weights(before, Block("b", twice), "lossy")
    with pytest.raises(Exception, match="an exact pass computes no weights"):
        check_weights(before, Block("b", both), "exact")
    assert [type(step) for step in computed(numbers)] == [Quantize]


@pytest.mark.parametrize(
    ("of", "dtype", "block", "message"),
    [
        (GATE, "float8", BLOCK, "'float8' has not 8 bits; there are float8_e4m3fn, int8"),
        (Ref("v", (F,)), "int8", BLOCK, "is no matrix"),
        (GATE, "int8", Dim.of(0), "a block of 0 rows and columns is none"),
    ],
)
def test_refusals(of: Program, dtype: str, block: Dim, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        Quantize(of, dtype, block)
