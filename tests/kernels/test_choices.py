"""The table of tiles: against a plain one, for any choices, experts and rows of a tile."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from archsmith.compiler.ops.experts import FusedExperts
from kernels.checks import Edit, emitted, registry
from kernels.expert_cases import changed
from kernels.guards import Guards, guarded
from kernels.test_grouped_gemm_choice import types


def choices(edit: Edit | None = None) -> ModuleType:
    """The emitted file."""
    kernel, ops = (
        registry().kernels["triton.grouped_gemm"](),
        {FusedExperts("silu"): types(8, 2, 64, 32)},
    )
    return sys.modules[emitted(kernel, ops, "h200", edit).sort_choices.__module__]


def plain(index: np.ndarray, experts: int, block_m: int) -> list[list[int]]:
    """The lines of the table, whose free ones are -1 alone."""
    chosen = index.flatten()
    lines = [[-1] for _ in range(chosen.size // block_m + experts)]
    before = 0
    for expert in range(experts):
        mine = np.flatnonzero(chosen == expert).tolist()
        for i in range(0, len(mine), block_m):
            row = mine[i : i + block_m]
            row += [chosen.size] * (block_m - len(row))
            lines[before // block_m + expert + i // block_m] = [expert, *row]
        before += len(mine)
    return lines


def agrees(module: ModuleType, index: np.ndarray, experts: int, block_m: int) -> bool:
    with Guards() as guards:
        table = module.sort_choices(guarded(torch.from_numpy(index)), experts, block_m)
    guards.check()
    wanted = plain(index, experts, block_m)
    assert table.dtype == torch.int32
    assert table.shape == (len(wanted), 1 + block_m)
    found = table.tolist()
    return all(line[: len(other)] == other for line, other in zip(found, wanted, strict=True))


def holds(module: ModuleType, index: np.ndarray, experts: int, block_m: int) -> bool:
    """Whether a table agrees, and nothing was written beside it."""
    try:
        return agrees(module, index, experts, block_m)
    except AssertionError as error:
        if "written" in str(error):
            return False
        raise


def drawn(tokens: int, experts: int, top_k: int) -> np.ndarray:
    draws = np.random.default_rng(0)
    return np.stack([draws.permutation(experts)[:top_k] for _ in range(tokens)])


# Tokens, experts, experts a token, rows of a tile.
SHAPES = [
    (1, 3, 1, 16),
    (33, 1, 1, 16),
    (128, 1, 1, 128),
    (40, 2, 2, 32),
    (70, 5, 3, 16),
    (100, 8, 2, 32),
    (33, 60, 4, 16),
    (65, 64, 6, 16),
    (40, 66, 8, 64),
    (35, 256, 8, 16),
    (33, 300, 1, 128),
]


@pytest.mark.parametrize("counted", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_table(shape: tuple[int, ...], counted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where each program counts all choices, and where they were counted in blocks before."""
    tokens, experts, top_k, block_m = shape
    module = choices()
    monkeypatch.setattr(module, "BLOCK", 128)
    monkeypatch.setattr(module, "FEW", 0 if counted else 4096)
    assert agrees(module, drawn(tokens, experts, top_k), experts, block_m)


@pytest.mark.parametrize("chosen", [(0,), (7,), (3,), (0, 1), (2, 5, 6)], ids=str)
def test_experts_without_choices(chosen: tuple[int, ...]) -> None:
    index = np.array(chosen)[np.arange(97) % len(chosen)][:, None]
    assert agrees(choices(), index, 8, 16)
    assert agrees(choices(), np.sort(index, 0), 8, 16)


def test_blocks_are_counted_first_where_choices_are_many(monkeypatch: pytest.MonkeyPatch) -> None:
    module = choices()
    monkeypatch.setattr(module, "BLOCK", 64)
    monkeypatch.setattr(module, "FEW", 192)
    assert module._count is not None
    monkeypatch.setattr(module, "_count", None)  # up to FEW it is not launched
    assert agrees(module, drawn(96, 16, 2), 16, 128)
    with pytest.raises(TypeError, match="not subscriptable"):
        agrees(module, drawn(97, 16, 2), 16, 128)


BROKEN = {
    "experts have no lines of their own": ("before // BLOCK_M + expert\n", "before // BLOCK_M\n"),
    "no line is marked empty": ("table_ptr + end * line, -1", "table_ptr + end * line, 0"),
    "more than free lines are marked": ("free = ours & (end <=", "free = ours | (end <="),
    "rows count from one": ("tl.cumsum(mine, 0) - 1", "tl.cumsum(mine, 0)"),
    "earlier blocks are forgotten": ("first * BLOCK_M + earlier", "first * BLOCK_M"),
    "the last tile is not filled": ("row < end[:, None] * BLOCK_M", "row < 0"),
    "a tile's expert is the next": ("tl.store(at, chosen,", "tl.store(at, chosen + 1,"),
    "lower experts count themselves": ("tl.cumsum(rows, 0) - rows", "tl.cumsum(rows, 0)"),
    "one program ends all": ("expert % blocks == block", "expert == block"),
}
BROKEN_ALONE = {
    "all choices are earlier": ("choice < tl.minimum(block * BLOCK, choices)", "choice < choices"),
    "choices past the last are counted": (
        "mask=choice < choices)\n            e",
        "mask=choice >= 0)\n            e",
    ),
}
BROKEN_COUNTED = {
    "rows are not counted on": ("place += tl.sum(mine, 0)", "pass"),
    "all blocks are earlier": ("other < block, count, 0", "other < blocks, count, 0"),
    "blocks overlap": ("block * BLOCK + tl.arange(0, BLOCK)", "block + tl.arange(0, BLOCK)"),
    "choices past the last are counted": (
        "count = tl.histogram(chosen, BINS, mask=there)",
        "count = tl.histogram(chosen, BINS)",
    ),
    "blocks past the last are counted": (
        "mask=other < blocks, other=0",
        "mask=other >= 0, other=0",
    ),
}


def test_what_is_whole_holds() -> None:
    index = np.concatenate([drawn(90, 5, 2), np.full((63, 2), [1, 3])])
    assert holds(choices(), index + (index > 2), 7, 16)


@pytest.mark.parametrize(
    ("change", "counted"),
    [
        *((change, counted) for change in BROKEN.values() for counted in (False, True)),
        *((change, False) for change in BROKEN_ALONE.values()),
        *((change, True) for change in BROKEN_COUNTED.values()),
    ],
)
def test_what_is_broken_is_caught(
    change: tuple[str, str], counted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = choices(changed(change))
    monkeypatch.setattr(module, "BLOCK", 256)
    monkeypatch.setattr(module, "FEW", 0 if counted else 4096)
    index = np.concatenate([drawn(90, 5, 2), np.full((63, 2), [1, 3])])
    assert not holds(module, index + (index > 2), 7, 16)
