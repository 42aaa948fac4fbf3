"""Rotary embedding in Triton: both conventions, on whole heads and on parts, against the op."""

from __future__ import annotations

import pytest
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ops.position import Rope
from kernels.checks import Edit, Results, Run, differ, holds, interpreted

# Of a rounding to the stored dtype, and of a product and a sum in float32.
CLOSE = {"float32": 1e-6, "float16": 1e-3}
SHAPES = (
    ("[B, T, {}]", 2),
    *(("[B, T, {}]", width) for width in (8, 24, 64, 100)),
    *(("[B, T, 1, {}]", width) for width in (2, 64)),
    *(("[B, T, 3, {}]", width) for width in (6, 32, 80)),
    *(("[B, T, 16, {}]", width) for width in (16, 64, 128)),
    *(("[B, T, 40, {}]", width) for width in (10, 64, 256)),
    *(("[B, T, 129, {}]", width) for width in (64, 96)),
    *(("[B, T, 200, {}]", width) for width in (2, 128)),
)


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("shape", "width"), SHAPES)
def test_rope(shape: str, width: int, dtype: str, interleaved: bool) -> None:
    # One token's whole heads, and parts of several tokens'.
    for sizes, wider in ((Sizes(1, 1, 1), 0), (Sizes(2, 3, 3), width + 8)):
        found = interpreted(
            "triton.rope",
            Rope(interleaved),
            [shape.format(width), *[f"float32[B, T, {width // 2}]"] * 2],
            sizes,
            dtype=dtype,
            part_of={"x": wider},
        )
        assert differ(*found) < CLOSE[dtype]


BROKEN = {
    "a sign": ("a * cos - b * sin", "a * cos + b * sin"),
    "a pair's members change places": ("b * cos + a * sin", "a * cos + b * sin"),
    "all tokens turn like the first": ("turn = token * (K // 2) + pair", "turn = pair"),
    "heads are taken to be dense": ("head * head_stride", "head * K"),
    "rows of a batch are taken to be dense": (
        "(token // tokens) * batch_stride",
        "(token // tokens) * tokens * H * K",
    ),
    "tokens are taken to be dense": ("(token % tokens) * token_stride", "(token % tokens) * H * K"),
    "heads past the last are written": ("(head < H) & ", ""),
    "pairs past the last are written": (" & (pair < K // 2)", ""),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_caught(change: tuple[str, str]) -> None:
    run = _run(interleaved=False)
    assert holds(run, None, CLOSE["float32"])
    assert not holds(run, lambda text: text.replace(*change), CLOSE["float32"])


@pytest.mark.parametrize("change", list(BROKEN.values())[:5])
def test_what_is_broken_is_caught_in_the_other_convention(change: tuple[str, str]) -> None:
    run = _run(interleaved=True)
    assert holds(run, None, CLOSE["float32"])
    assert not holds(run, lambda text: text.replace(*change), CLOSE["float32"])


def _run(interleaved: bool) -> Run:
    def run(edit: Edit | None) -> tuple[Results, Results]:
        return interpreted(
            "triton.rope",
            Rope(interleaved),
            ["[B, T, 129, 40]", "[B, T, 20]", "[B, T, 20]"],
            Sizes(2, 3, 3),
            dtype="float32",
            part_of={"x": 50},
            edit=edit,
        )

    return run
