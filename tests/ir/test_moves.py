"""Simplified weight programs against those that say each step: the same, and shorter."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.moves import flattened, joined, sliced, swapped, unflattened
from archsmith.compiler.ir.weights import Concat, Flatten, Program, Ref, Slice, Transpose, Unflatten
from hypothesis import given
from hypothesis import strategies as st

DIMS = st.builds(Dim, st.integers(1, 6), st.integers(1, 4))
THREE = Dim(3, 2)


def value(program: Program, which: Any = "probe") -> np.ndarray:
    """Each tensor holds numbers of its own."""

    def read(name: str, shape: tuple[int, ...]) -> np.ndarray:
        start = 1000 * int(name)
        return np.arange(start, start + np.prod(shape, dtype=int)).reshape(shape)

    return np.asarray(program.evaluate(which, read, {}))


def same(short: Program, long: Program) -> None:
    assert short.shape == long.shape
    for which in ("size", "probe"):
        assert np.array_equal(value(short, which), value(long, which))


@given(sizes=st.lists(DIMS, min_size=1, max_size=5), data=st.data())
def test_slices_of_parts(sizes: list[Dim], data: st.DataObject) -> None:
    parts = tuple(Ref(str(i), (THREE, size)) for i, size in enumerate(sizes))
    whole = joined([joined(parts[:2], 1), *parts[2:]], 1) if len(parts) > 2 else joined(parts, 1)
    assert not any(isinstance(part, Concat) for part in whole.parts)
    axis = whole.shape[1]
    start = Dim(*(data.draw(st.integers(0, n - 1)) for n in (axis.size, axis.probe)))
    rest = axis - start
    length = Dim(*(data.draw(st.integers(1, n)) for n in (rest.size, rest.probe)))
    same(sliced(whole, 1, start, length), Slice(whole, 1, start, length))
    same(sliced(whole, 0, Dim(1, 1), Dim(2, 1)), Slice(whole, 0, Dim(1, 1), Dim(2, 1)))


def test_a_part_is_itself() -> None:
    a, b, c = (Ref(str(i), (Dim(2, 3 + i), THREE)) for i in range(3))
    whole = joined([joined([a, b], 0), c], 0)
    assert whole == Concat((a, b, c), 0)
    assert sliced(whole, 0, Dim(2, 3), Dim(2, 4)) == b
    assert sliced(whole, 0, Dim(2, 3), Dim(4, 9)) == Concat((b, c), 0)
    assert sliced(whole, 0, Dim.of(0), Dim(6, 12)) == whole
    other = Ref("3", (Dim(6, 12), THREE))
    assert joined([whole, other], 1) == Concat((whole, other), 1)


@pytest.mark.parametrize("axis", [0, 1, 2, 3])
def test_flattened_is_what_was_unflattened(axis: int) -> None:
    into = (Dim(2, 3), Dim(5, 2), Dim(7, 4))
    ref = Ref("0", (Dim(3, 2), Dim(70, 24), Dim(4, 5)))
    program = Unflatten(ref, 1, into)
    same(flattened(program, axis), Flatten(program, axis))
    two = flattened(program, 1)
    assert two == Unflatten(ref, 1, (Dim(10, 6), Dim(7, 4)))
    assert flattened(two, 1) == ref
    same(flattened(two, 0), Flatten(two, 0))


def test_unflattened_is_what_was_flattened() -> None:
    ref = Ref("0", (Dim(3, 2), Dim(4, 6), Dim(5, 3)))
    flat = Flatten(ref, 0)
    assert unflattened(flat, 0, (Dim(3, 2), Dim(4, 6))) == ref
    for into in ((Dim(4, 6), Dim(3, 2)), (Dim(6, 3), Dim(2, 4))):
        assert unflattened(flat, 0, into) == Unflatten(flat, 0, into)
    assert unflattened(Flatten(ref, 1), 0, (Dim.of(1), Dim(3, 2))).shape[0] == Dim.of(1)


def test_swapped() -> None:
    ref = Ref("0", (Dim(3, 2), Dim(4, 6), Dim(5, 3)))
    assert swapped(ref, 1) == Transpose(ref, (0, 2, 1))
    assert np.array_equal(value(swapped(ref, 0)), value(ref).swapaxes(0, 1))
