"""Dimension pairs: the same arithmetic on both parts, and division that is exact on both."""

from __future__ import annotations

import operator

import pytest
from archsmith.compiler.errors import GraphError
from archsmith.compiler.ir.dims import Dim, product, total
from hypothesis import given
from hypothesis import strategies as st

DIMS = st.builds(Dim, st.integers(0, 10**6), st.integers(0, 100))


@pytest.mark.parametrize("op", [operator.add, operator.sub, operator.mul])
@given(a=DIMS, b=DIMS, n=st.integers(0, 50))
def test_arithmetic_is_of_both_parts(op: object, a: Dim, b: Dim, n: int) -> None:
    assert callable(op)
    assert op(a, b) == Dim(op(a.size, b.size), op(a.probe, b.probe))
    assert op(a, n) == Dim(op(a.size, n), op(a.probe, n))


@given(DIMS, st.integers(0, 9))
def test_a_number_may_stand_on_the_left(a: Dim, n: int) -> None:
    assert n + a == a + n
    assert n * a == a * n


@given(DIMS, st.builds(Dim, st.integers(1, 99), st.integers(1, 99)))
def test_division_undoes_multiplication(a: Dim, b: Dim) -> None:
    assert a * b // b == a


@pytest.mark.parametrize(
    ("a", "b"), [(Dim(6, 5), Dim(3, 3)), (Dim(5, 6), Dim(3, 3)), (Dim(7, 7), 2)]
)
def test_division_leaves_no_remainder(a: Dim, b: Dim | int) -> None:
    with pytest.raises(GraphError, match="is not a multiple of"):
        a // b


def test_sizes_that_only_look_alike_differ() -> None:
    hidden, attended = Dim(2048, 31), Dim(16, 7) * Dim(128, 13)
    assert hidden.size == attended.size
    assert hidden != attended


def test_sums_and_products() -> None:
    dims = (Dim(2, 3), Dim(5, 7), Dim(11, 13))
    assert total(dims) == Dim(18, 23)
    assert product(dims) == Dim(110, 273)
    assert product(()) == Dim.of(1)


@given(DIMS)
def test_text_reads_back(a: Dim) -> None:
    assert Dim.parse(str(a)) == a
    assert str(Dim(8, 8)) == "8"


@pytest.mark.parametrize("text", ["", "x", "-1", "1~", "~2", "1 ~2", "1.0", "1~2~3"])
def test_what_is_no_dim(text: str) -> None:
    with pytest.raises(GraphError, match="is no dimension"):
        Dim.parse(text)


def test_a_pair_is_no_number_until_one_part_is_chosen() -> None:
    assert range(10)[Dim.of(3)] == 3
    with pytest.raises(TypeError, match="is a pair"):
        operator.index(Dim(8, 2))
    assert (Dim(8, 2).at("size"), Dim(8, 2).at("probe")) == (8, 2)
