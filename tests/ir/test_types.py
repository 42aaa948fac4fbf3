"""Types: their text, and the types made of them."""

from __future__ import annotations

import pytest
from archsmith.compiler.errors import GraphError
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import DTYPES, TensorType
from hypothesis import given
from hypothesis import strategies as st

AXES = st.sampled_from(["B", "T", "S"]) | st.builds(Dim, st.integers(0, 99), st.integers(0, 9))
TYPES = st.builds(TensorType, st.sampled_from(DTYPES), st.lists(AXES, max_size=4).map(tuple))


@given(TYPES)
def test_text_reads_back(type: TensorType) -> None:
    assert TensorType.parse(str(type)) == type


@pytest.mark.parametrize(
    "text", ["", "bfloat16", "int4[B]", "bfloat16[B", "bfloat16[X]", "bfloat16(B)", "bfloat16[-1]"]
)
def test_what_is_no_type(text: str) -> None:
    with pytest.raises(GraphError, match=r"is no (type|dimension)"):
        TensorType.parse(text)


def test_types_of_types() -> None:
    x = TensorType.parse("bfloat16[B, T, 6~2, 10~6]")
    assert str(x.wide) == "float32[B, T, 6~2, 10~6]"
    assert str(TensorType.parse("float64[B]").wide) == "float64[B]"
    assert x.row == (Dim(6, 2), Dim(10, 6))
    assert str(x.over("T", "S")) == "bfloat16[B, S, 6~2, 10~6]"
    assert str(x.last(Dim.of(3), Dim.of(4))) == "bfloat16[B, T, 6~2, 3, 4]"
    assert x.sizes("size", B=3, T=9) == (3, 9, 6, 10)
    assert x.sizes("probe", B=3, T=9) == (3, 9, 2, 6)
