"""Weight programs that compute: against NumPy, their text, and how far inside they go."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from archsmith.compiler.errors import GraphError
from archsmith.compiler.ir.computed import (
    Rotate,
    Scale,
    Times,
    computed,
    gains,
    held,
    multiplied,
    rotated,
    rotation,
    scaled,
)
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.tokens import Tokens
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
W, V, G, H = Ref("w", (A, B)), Ref("v", (C, B)), Ref("g", (A,)), Ref("h", (B,))
EXPERT = Ref("expert.{expert}.w", (A, B))


def read(name: str, shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(list(name.encode())).standard_normal(shape)


def evaluate(program: Program, which: Any = "probe", index: Mapping[str, int] | None = None) -> Any:
    value = program.evaluate(which, read, index or {})
    assert value.shape == tuple(d.at(which) for d in program.shape)
    return value


def test_scale_multiplies_along_an_axis() -> None:
    w, g, h = (evaluate(program) for program in (W, G, H))
    assert np.array_equal(evaluate(Scale(W, 0, G)), w * g[:, None])
    assert np.array_equal(evaluate(Scale(W, 1, H, 1.0)), w * (h + 1.0))


@pytest.mark.parametrize("n", [1, 2, 3, 5, 6, 8, 12, 17, 31, 40, 96, 512])
def test_rotations_are_orthogonal_and_symmetric_and_spread(n: int) -> None:
    r = rotation(n)
    assert np.array_equal(r, r.T) or np.abs(r - r.T).max() < 1e-14
    assert np.abs(r @ r - np.eye(n)).max() < 1e-13
    assert np.abs(r).max() <= np.sqrt(2 / n) + 1e-14
    if n & (n - 1) == 0:
        assert np.allclose(np.abs(r), 1 / np.sqrt(n), rtol=1e-15)


def test_rotate_turns_along_an_axis() -> None:
    w = evaluate(W)
    assert np.allclose(evaluate(Rotate(W, 0)), rotation(4) @ w)
    assert np.allclose(evaluate(Rotate(W, 1)), w @ rotation(3))
    assert np.allclose(evaluate(Rotate(Rotate(W, 1), 1)), w)


INSIDE = [
    (Unflatten(W, 0, (Dim(4, 2), Dim(3, 2))), 2, H),
    (Unflatten(W, 1, (Dim.of(1), B)), 0, G),
    (Flatten(Unflatten(W, 0, (Dim(4, 2), Dim(3, 2))), 0), 1, H),
    (Transpose(W, (1, 0)), 0, H),
    (Transpose(Unflatten(W, 0, (Dim(4, 2), Dim(3, 2))), (2, 0, 1)), 0, H),
    (Concat((W, V), 0), 1, H),
    (Stack(Concat((EXPERT, V), 0), "expert", C), 2, H),
    (Each(EXPERT, "expert", C), 1, G),
    (Scale(W, 0, G), 1, H),
    (Rotate(Unflatten(W, 0, (Dim(4, 2), Dim(3, 2))), 0), 2, H),
]


@pytest.mark.parametrize(("program", "axis", "by"), INSIDE, ids=lambda x: str(x)[:40])
def test_what_computes_goes_inside_and_stays_the_same(
    program: Program, axis: int, by: Program
) -> None:
    for inside, plain in (
        (scaled(program, axis, by, 1.0), Scale(program, axis, by, 1.0)),
        (rotated(program, axis), Rotate(program, axis)),
    ):
        assert type(inside) is type(program)
        assert inside != plain
        for which in ("size", "probe"):
            assert np.allclose(evaluate(inside, which), evaluate(plain, which), rtol=1e-13)
    assert rotated(rotated(program, axis), axis) == program


def test_times_multiplies_all_and_stands_at_the_tensors() -> None:
    assert np.array_equal(evaluate(Times(W, -0.75)), evaluate(W) * -0.75)
    for program, axis, by in INSIDE:
        inside = multiplied(program, 0.3)
        assert type(inside) is type(program)
        for which in ("size", "probe"):
            wanted = evaluate(program, which) * 0.3
            assert np.allclose(evaluate(inside, which), wanted, rtol=1e-13)
        assert [step.of for step in computed(inside) if isinstance(step, Times)] == [
            ref for ref in inside.refs() if ref not in gains(inside)
        ]
        assert held(inside) == held(program)
        assert multiplied(multiplied(program, 4.0), 0.25) == program
        assert scaled(inside, axis, by) == multiplied(scaled(program, axis, by), 0.3)
        assert rotated(inside, axis) == multiplied(rotated(program, axis), 0.3)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_no_weight_is_times_what_is_no_number(factor: float) -> None:
    with pytest.raises(GraphError, match="is no weight"):
        Times(W, factor)


def test_a_gain_is_cut_as_what_it_scales_is_joined() -> None:
    both, gain = Concat((W, V), 0), Ref("both", (Dim(22, 9),))
    inside = scaled(both, 0, gain)
    parts = [Slice(gain, 0, Dim.of(0), A), Slice(gain, 0, A, C)]
    assert inside == Concat((Scale(W, 0, parts[0]), Scale(V, 0, parts[1])), 0)
    assert np.array_equal(evaluate(inside), evaluate(Scale(both, 0, gain)))


@pytest.mark.parametrize(
    "program",
    [
        *(Scale(program, axis, by) for program, axis, by in INSIDE),
        *(rotated(program, axis) for program, axis, _ in INSIDE),
        *(multiplied(program, 0.3) for program, _, _ in INSIDE),
        Times(Scale(W, 1, H), 1e-05),
        Times(W, 2),
        Scale(W, 1, H, 1.0),
        Rotate(Slice(Scale(W, 1, H, -0.5), 0, Dim(2, 1), Dim(3, 2)), 0),
    ],
    ids=str,
)
def test_text_reads_back(program: Program) -> None:
    tokens = Tokens(str(program))
    assert tokens.program() == program
    tokens.end()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ('scale(ref("w", (4, 3)), 1, ref("g", (4)))', "no number for each entry of axis 1"),
        ('scale(ref("w", (4, 3)), 2, ref("g", (4)))', "axis 2 is none of the 2"),
        ('rotate(ref("w", (4, 3)), 2)', "axis 2 is none of the 2"),
        ('scale(ref("w", (4, 3)), 0, ref("g", (4)), 1~2)', "has no probe"),
        ('times(ref("w", (4, 3)), 1~2)', "has no probe"),
        ('times(ref("w", (4, 3)))', "expected ','"),
    ],
)
def test_mistakes(text: str, error: str) -> None:
    with pytest.raises(GraphError, match=error):
        Tokens(text).program()


def test_what_is_held_and_what_is_read() -> None:
    inner = Stack(Scale(Rotate(EXPERT, 0), 1, H), "expert", C)
    assert held(inner) == Stack(EXPERT, "expert", C)
    assert list(gains(inner)) == [Stack(H, "expert", C)]
    assert len(list(computed(inner))) == 2
    twice = Scale(Scale(W, 1, H), 0, G)
    assert list(gains(twice)) == [G, H]
    assert held(Concat((Slice(twice, 0, Dim.of(0), B), V), 0)) == Concat(
        (Slice(W, 0, Dim.of(0), B), V), 0
    )
