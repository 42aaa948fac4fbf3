"""Grouped experts in Triton: against their op in float64, at any number of rows and experts."""

from __future__ import annotations

import numpy as np
import pytest
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ops.experts import FusedExperts
from kernels.checks import Edit, Results, differ, holds, interpreted

# Of sums in float32 in another order, and of a hidden row and a result in the stored dtype.
CLOSE = {"float32": 2e-6, "float16": 2e-3}


def run(
    rows: int,
    experts: int,
    top_k: int,
    width: int,
    inner: int,
    *,
    activation: str = "silu",
    dtype: str = "float32",
    chosen: tuple[int, ...] | None = None,
    always: int = 0,
    target: str = "h200",
    batch: int = 1,
    edit: Edit | None = None,
) -> tuple[Results, Results]:
    """`chosen` are the experts that tokens choose from, all of them where nothing is said, but for
    the last `always`, which every token uses."""
    draws = np.random.default_rng(1)
    among = np.arange(experts - always) if chosen is None else np.array(chosen)
    index = np.stack([draws.permutation(among)[: top_k - always] for _ in range(rows)])
    last = np.arange(experts - always, experts)
    index = np.concatenate([index, np.broadcast_to(last, (rows, always))], axis=1)
    values = {
        "index": index.reshape(batch, rows // batch, top_k),
        "gate_up": draws.standard_normal((experts, 2, inner, width)) / width**0.5,
        "down": draws.standard_normal((experts, width, inner)) / inner**0.5,
    }
    types = [
        f"[B, T, {width}]",
        f"int64[B, T, {top_k}]",
        f"float32[B, T, {top_k}]",
        f"[{experts}, 2, {inner}, {width}]",
        f"[{experts}, {width}, {inner}]",
    ]
    return interpreted(
        "triton.grouped_gemm",
        FusedExperts(activation, always=Dim.of(always)),
        types,
        Sizes(batch, rows // batch, rows // batch),
        dtype=dtype,
        values=values,
        target=target,
        edit=edit,
    )


# Rows, experts, experts a token, width, inner width. Up to 16 rows no table is made.
SHAPES = [
    (1, 8, 2, 32, 32),  # a choice a tile
    (1, 2, 2, 16, 16),  # an expert a tile
    (1, 64, 6, 40, 24),
    (2, 5, 3, 17, 33),
    (2, 64, 1, 96, 16),
    (3, 8, 5, 20, 80),
    (15, 8, 2, 48, 16),
    (15, 2, 1, 33, 65),
    (16, 64, 6, 16, 16),
    (16, 5, 4, 64, 96),
    (17, 8, 2, 32, 40),
    (17, 64, 3, 16, 48),
    (17, 2, 2, 70, 16),
    (40, 5, 5, 24, 24),
    (65, 5, 1, 32, 16),
    (65, 8, 6, 16, 31),
    (65, 2, 1, 80, 33),  # more rows of an expert than float32 has in a tile
    (130, 2, 2, 16, 16),
    (130, 8, 1, 96, 48),
    (130, 64, 4, 16, 16),
    (300, 2, 1, 40, 17),  # several tiles of 128
]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_grouped_experts(shape: tuple[int, ...], dtype: str) -> None:
    assert differ(*run(*shape, dtype=dtype)) < CLOSE[dtype]


# Rows, experts, experts a token, of which so many are always used: by choice, by expert, sorted.
@pytest.mark.parametrize(
    "shape", [(1, 12, 5, 1), (9, 5, 4, 2), (16, 4, 2, 1), (40, 9, 5, 3), (140, 9, 3, 1)], ids=str
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
    assert differ(*run(rows, 3, 2, 300, 140, dtype="float16", target=target)) < CLOSE["float16"]


def test_a_batch_is_rows() -> None:
    assert differ(*run(24, 5, 2, 32, 32, batch=3)) < CLOSE["float32"]


def test_the_same_call_gives_the_same_bits() -> None:
    first, again = (run(40, 5, 3, 48, 40, dtype="float16")[0] for _ in range(2))
    np.testing.assert_array_equal(first, again)


def changed(*pairs: tuple[str, str]) -> Edit:
    def edit(text: str) -> str:
        for old, new in pairs:
            assert old in text, old
            text = text.replace(old, new)
        return text

    return edit


def test_a_table_is_written_in_steps_and_whole() -> None:
    """With steps of 16 choices, and a table whose lines before it is written look like others."""
    short = ("1024 if choices <= 1024 else 4096", "16")
    full = ("index.new_empty((tiles, 1 + block_m),", "index.new_full((tiles, 1 + block_m), 0,")
    for experts, chosen in ((4, (0, 1, 3)), (3, (1, 2))):
        found = run(60, experts, 2, 32, 32, chosen=chosen, edit=changed(short, full))
        assert differ(*found) < CLOSE["float32"]
    empty = ("tl.store(table_ptr + end * line, -1)", "pass")
    broken = run(60, 3, 2, 32, 32, chosen=(1, 2), edit=changed(full, empty))
    assert not differ(*broken) < CLOSE["float32"]


BROKEN = {
    "experts have no lines of their own": ("before // BLOCK_M + expert\n", "before // BLOCK_M\n"),
    "no line is marked empty": ("table_ptr + end * line, -1", "table_ptr + end * line, 0"),
    "rows count from one": ("tl.cumsum(mine, 0) - 1", "tl.cumsum(mine, 0)"),
    "the last tile is not filled": ("(end - first) * BLOCK_M", "0"),
    "a tile's expert is the next": ("tl.store(place, expert,", "tl.store(place, expert + 1,"),
    "there are too few tiles": ("choices // block_m + E", "choices // block_m"),
    "rows are looked for that do not fit": ("tokens > block_m", "tokens > 4 * block_m"),
    "x has a row a choice": ("row // K if gated else row", "row"),
    "up is gate": ("weight_row + OUT * IN + k", "weight_row + k"),
    "an expert is half as large": ("((2 if gated else 1) * OUT * IN)", "(OUT * IN)"),
    "x is read past its row": ("mask=live & (k < IN)[None, :]", "mask=live"),
    "columns past the last are written": ("mask=live & (col < OUT)", "mask=live"),
    "rows past the last are written": ("mask=live & (col < OUT)", "mask=col < OUT"),
    "a step reads what the last one did": ("k = start +", "k = start // 2 +"),
    "columns and tiles are confused": ("tiles, columns, GROUP_M)", "columns, tiles, GROUP_M)"),
    "the last columns are left out": ("triton.cdiv(F, gate_n)", "(F // gate_n)"),
    "gate is not activated": ("y * tl.sigmoid(y) * up", "y * up"),
    "up is left out": ("y * tl.sigmoid(y) * up", "y * tl.sigmoid(y)"),
    "the weight is left out": ("y += tl.load(weight_ptr + choice) * x", "y += x"),
    "the weight is the first choice's": ("weight_ptr + choice", "weight_ptr + token * K"),
    "a choice is left out": ("tl.static_range(K)", "tl.static_range(1, K)"),
    "results are spaced like tiles": ("y_ptr + token * D", "y_ptr + token * BLOCK"),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_caught(change: tuple[str, str]) -> None:
    def once(edit: Edit | None) -> tuple[Results, Results]:
        return run(60, 4, 2, 140, 72, chosen=(1, 2, 3), edit=edit)

    assert not holds(once, changed(change), CLOSE["float32"])


BROKEN_OF_FEW = {
    "tokens are as far apart as slots": (
        "row[:, None] * K + slot",
        "row[:, None] * SLOTS + slot",
    ),
    "a token has one choice": ("(slot < K) &", "(slot < 1) &"),
    "only the first tokens are there": ("& (choice < choices)", "& (choice < K)"),
    "any expert's choices are its own": (" == expert)\n", " >= 0)\n"),
    "only the first choice is run": ("first == tile if", "tile == 0 if"),
    "an expert is a tile": ("if BY_CHOICE else tile\n", "if 0 else tile\n"),
}


@pytest.mark.parametrize("change", BROKEN_OF_FEW.values(), ids=BROKEN_OF_FEW)
def test_what_is_broken_is_caught_of_few_rows(change: tuple[str, str]) -> None:
    def once(edit: Edit | None) -> tuple[Results, Results]:
        return run(5, 20, 3, 40, 72, edit=edit)

    assert not holds(once, changed(change), CLOSE["float32"])


def test_what_is_whole_holds() -> None:
    """The runs that are broken above, as they are."""
    assert differ(*run(60, 4, 2, 140, 72, chosen=(1, 2, 3))) < CLOSE["float32"]
    assert differ(*run(5, 20, 3, 40, 72)) < CLOSE["float32"]
