"""Weight programs: each against NumPy, their shapes, their text, and what none may do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from archsmith.compiler.errors import GraphError
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.weights import (
    Concat,
    Each,
    Flatten,
    Program,
    Ref,
    Slice,
    Stack,
    Transpose,
    Unflatten,
)

A, B, C = Dim(12, 4), Dim(6, 3), Dim(10, 5)
W = Ref("layer.{layer}.w", (A, B))


def read(name: str, shape: tuple[int, ...]) -> Any:
    draw = np.random.default_rng(list(name.encode()))
    return draw.standard_normal(shape)


def evaluate(program: Program, **index: int) -> Any:
    for which in ("size", "probe"):
        value = program.evaluate(which, read, index)
        assert value.shape == tuple(d.at(which) for d in program.shape)
    return value


def test_a_reference_names_its_layer() -> None:
    assert np.array_equal(evaluate(W, layer=3), read("layer.3.w", (4, 3)))
    assert [ref.name for ref in Concat((W, W), 0).refs()] == ["layer.{layer}.w"] * 2


@pytest.mark.parametrize("family", [Each, Stack])
def test_an_index_runs_over_a_dim(family: type[Each] | type[Stack]) -> None:
    body = Ref("layer.{layer}.experts.{expert}.w", (A, B))
    program = family(body, "expert", C)
    wanted = np.stack([read(f"layer.2.experts.{e}.w", (4, 3)) for e in range(5)])
    assert program.shape == (C, A, B)
    assert np.array_equal(evaluate(program, layer=2), wanted)


def test_programs_that_move_entries() -> None:
    w, v = read("layer.0.w", (4, 3)), read("v", (5, 3))
    other = Ref("v", (C, B))
    cases: Mapping[Program, Any] = {
        Concat((W, other), 0): np.concatenate([w, v]),
        Concat((Transpose(W, (1, 0)), Transpose(other, (1, 0))), 1): np.concatenate([w, v]).T,
        Slice(W, 0, Dim.of(1), A - 2): w[1:3],
        Slice(W, 1, Dim.of(0), Dim.of(2)): w[:, :2],
        Unflatten(W, 0, (Dim(6, 2), Dim.of(2))): w.reshape(2, 2, 3),
        Flatten(W, 0): w.reshape(12),
        Transpose(W, (1, 0)): w.T,
        Transpose(Unflatten(W, 0, (Dim(6, 2), Dim.of(2))), (2, 0, 1)): w.reshape(2, 2, 3).transpose(
            2, 0, 1
        ),
    }
    for program, wanted in cases.items():
        assert np.array_equal(evaluate(program, layer=0), wanted), program


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Ref("a/../b", (A,)), "is no tensor name"),
        (lambda: Ref("", (A,)), "is no tensor name"),
        (lambda: Ref("a\nb", (A,)), "is no tensor name"),
        (lambda: Concat((W, Ref("v", (A, C))), 0), "does not join"),
        (lambda: Concat((W, Ref("v", (A,))), 0), "does not join"),
        (lambda: Slice(W, 0, Dim.of(1), A), "passes the end"),
        (lambda: Slice(W, 0, Dim(1, 2), Dim(3, 3)), "passes the end"),
        (lambda: Unflatten(W, 0, (Dim(6, 2), Dim(2, 3))), "is not 12~4"),
        (lambda: Transpose(W, (0, 0)), "is no order of 2 axes"),
        (lambda: Transpose(W, (0,)), "is no order of 2 axes"),
    ],
)
def test_what_no_program_may_do(make: Any, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        make()


def test_an_axis_that_probes_do_not_see_is_refused() -> None:
    """Swapped with the other, it moves nothing at its probes, and much at its sizes."""
    with pytest.raises(GraphError, match="0 and 1 stand for themselves"):
        Unflatten(Ref("w", (Dim(12, 4),)), 0, (Dim(2, 1), Dim(6, 4)))


def test_an_axis_that_probes_alone_see_is_none_to_hide_behind() -> None:
    """A half of two is one, whose probe moves where the size does not."""
    halves = (Dim.of(2), Dim(2, 4) // 2)
    assert Unflatten(Ref("w", (Dim(2, 4),)), 0, halves).shape == (Dim.of(2), Dim(1, 2))
