"""Families of weights that a checkpoint packs: each picked from one tensor, and that tensor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from archsmith.compiler.components.building.packed import picked
from archsmith.compiler.errors import GraphError
from archsmith.compiler.ir.computed import Scale, multiplied, rotated, scaled
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.moves import joined, unflattened
from archsmith.compiler.ir.pick import Pick
from archsmith.compiler.ir.stacked import stacked
from archsmith.compiler.ir.tokens import Tokens
from archsmith.compiler.ir.weights import Concat, Each, Program, Ref, Slice, Stack, Transpose
from archsmith.compiler.spec.packed import Packed

E, D, F = Dim(6, 3), Dim(10, 5), Dim(14, 7)
ONE, TWO = Dim.of(1), Dim.of(2)
WHOLE = Ref("w.{layer}", (E, D, F))
PICKED = Pick(WHOLE, "expert")
OWN = Ref("w.{layer}.{expert}", (D, F))
GAIN = Ref("gain", (D,))


def family(body: Program) -> Each:
    return Each(body, "expert", E)


def read(name: str, shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(list(name.encode())).standard_normal(shape)


def value(program: Program) -> Any:
    return program.evaluate("probe", read, {"layer": 2})


def test_a_family_picked_from_a_tensor_is_the_tensor() -> None:
    assert np.array_equal(value(family(PICKED)), read("w.2", (3, 5, 7)))
    assert stacked(family(PICKED)) == WHOLE
    assert family(PICKED).shape == (E, D, F)


@pytest.mark.parametrize(
    ("body", "shorter"),
    [
        (PICKED, True),
        (Transpose(PICKED, (1, 0)), True),
        (Slice(PICKED, 1, ONE, TWO), True),
        (Concat((PICKED, Slice(PICKED, 0, ONE, TWO)), 0), True),
        (multiplied(Transpose(PICKED, (1, 0)), 0.5), True),
        (scaled(Transpose(PICKED, (1, 0)), 1, GAIN), True),
        (rotated(Slice(PICKED, 1, ONE, TWO), 0), False),
        (OWN, False),
        (Concat((PICKED, OWN), 0), False),
        (Pick(Ref("w.{layer}.{expert}", (E, D, F)), "expert"), False),
        (Scale(PICKED, 0, Ref("gain.{expert}", (D,))), False),
    ],
    ids=str,
)
def test_what_is_stacked_is_the_family(body: Program, shorter: bool) -> None:
    whole = stacked(family(body))
    assert np.array_equal(value(whole), value(family(body)))
    assert isinstance(whole, Stack) != shorter
    for program in (family(body), whole):
        tokens = Tokens(str(program))
        assert tokens.program() == program
        tokens.end()


def test_there_is_an_entry_for_each_of_an_index() -> None:
    with pytest.raises(GraphError, match="picks from 6~3"):
        Each(PICKED, "expert", Dim(7, 3))
    with pytest.raises(GraphError, match="picks from 6~3"):
        Stack(Concat((OWN, PICKED), 0), "expert", Dim(6, 2))
    with pytest.raises(GraphError, match="no axis to pick from"):
        Pick(Ref("scalar", ()), "expert")


@pytest.mark.parametrize("first", [0, 1])
def test_rows_by_turns(first: int) -> None:
    """As gpt-oss has them: [experts, in, out], where out is gate and up in every other column."""
    each = picked(family(Ref("own", (F, D))), Packed("w", transposed=True, every=2, first=first))
    assert np.array_equal(value(each), read("w", (3, 5, 14))[:, :, first::2].transpose(0, 2, 1))
    bias = picked(family(Ref("own", (F,))), Packed("b", every=2, first=first))
    assert np.array_equal(value(bias), read("b", (3, 14))[:, first::2])
    third = picked(family(Ref("own", (F, D))), Packed("w", every=3, first=2))
    assert np.array_equal(value(third), read("w", (3, 21, 5))[:, 2::3])


def test_both_turns_are_the_whole() -> None:
    """What is put together of all its parts is the tensor, its axes moved."""
    gate, up = (
        picked(family(Ref("own", (F, D))), Packed("w", transposed=True, every=2, first=first))
        for first in (0, 1)
    )
    rows = joined((gate.body, up.body), 0)
    both = stacked(replace(gate, body=unflattened(rows, 0, (TWO, F))))
    assert "slice" not in str(both)
    assert "concat" not in str(both)
    assert np.array_equal(value(both), np.stack((value(gate), value(up)), 1))
