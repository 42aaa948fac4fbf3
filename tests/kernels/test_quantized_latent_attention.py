"""Attention of many heads to a latent in float8 in Gluon: run by NumPy, and every step down."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.quantized_attention import QuantizedAttend
from archsmith.compiler.ops.quantized_rows import QuantizeRows
from kernels.checks import Edit, Results, differ, emitted, holds, registry
from kernels.expert_cases import changed
from kernels.gluon_numpy import Emulated, emulate
from kernels.quantized_attention_cases import Case

NAME = "gluon.quantized_latent_attention"
CLOSE = 3e-3  # of the rows', the weights' and the result's rounding to float16
ALONE = ("PROCESSORS = 132", "PROCESSORS = 1")  # contexts are not shared out
SHARED = (ALONE, ("MOST = 8192", "MOST = 64"), ("_S=8", "_S=2"))


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch, "quantized_latent_split", "quantized_latent_split")


PLAIN = Case([1], 64, 128, 64, block=64)
CASES = [
    *(replace(PLAIN, contexts=[n]) for n in (1, 63, 64, 65, 129)),
    replace(PLAIN, contexts=[130, 1, 64, 65], slots=131),
    replace(PLAIN, contexts=[70, 9], heads=128),
    *(replace(PLAIN, contexts=[150, 3], heads=66, tokens=t) for t in (2, 8)),
    Case([70, 130], 64, 128, 64, block=128),
    Case([70], 64, 512, 64, block=128),
    *(replace(PLAIN, contexts=[63, 129, 200, 1], page=page, slots=210) for page in (64, 128)),
]
MORE = [
    replace(PLAIN, contexts=[4097]),
    *(replace(PLAIN, contexts=[2, 3] * rows, slots=5) for rows in (2, 4, 8, 16, 64)),
    *(replace(PLAIN, contexts=[n], heads=h) for n in (1, 64, 65, 127) for h in (72, 128)),
    *(replace(PLAIN, contexts=[n, 5], tokens=t) for n in (5, 66, 129) for t in (2, 3, 4, 5)),
    *(replace(PLAIN, contexts=[3, n], page=64) for n in (1, 64, 65, 128)),
    *(replace(PLAIN, contexts=[n, 1, 3, 70, 64, 5, 66][:r]) for n in (1, 65) for r in (3, 5, 7)),
    replace(PLAIN, contexts=[128]),
]


def run(case: Case, *changes: tuple[str, str], part_of: int = 0) -> tuple[Results, Results]:
    return case.run("float16", kernel=NAME, edit=changed(*changes), part_of=part_of)


@pytest.mark.parametrize("case", CASES + MORE, ids=lambda case: str(case)[:24])
def test_quantized_latent_attention(emulated: None, case: Case) -> None:
    assert differ(*run(case, ALONE)) < CLOSE


@pytest.mark.parametrize("page", [0, 64])
def test_a_context_that_is_shared_out(emulated: None, page: int) -> None:
    """In parts of several blocks, some of which rows see nothing of; more than combine at once."""
    case = replace(PLAIN, contexts=[300, 20], page=page)
    assert differ(*case.run("float16", kernel=NAME)) < CLOSE
    assert differ(*run(case, *SHARED)) < CLOSE


@pytest.mark.parametrize("case", CASES[5::3], ids=str)
def test_without_gluon_it_is_tritons(case: Case) -> None:
    assert differ(*case.run("float16", kernel=NAME)) < CLOSE


def test_on_a_cpu_it_is_pytorchs() -> None:
    """Down both steps, as in float64 on a GPU."""
    types = (
        *("float16[B, T, 64, 192]", "float8_e4m3fn[B, S, 128]", "float32[B, S, 2]"),
        *("float16[B, S, 64]", "int64[B, T]"),
    )
    op = QuantizedAttend(0.1, Dim.of(64))
    module = emitted(registry().kernels[NAME](), {op: tuple(map(TensorType.parse, types))}, "h200")
    draws = np.random.default_rng(0)
    numbers, scales = QuantizeRows(op.block).reference(draws.standard_normal((2, 9, 128)))
    q, rest = draws.standard_normal((2, 1, 64, 192)), draws.standard_normal((2, 9, 64))
    given = [q, numbers, scales, rest, np.array([[8], [3]])]
    q, numbers, scales, rest, positions = map(torch.from_numpy, given)
    numbers = numbers.to(torch.float8_e4m3fn)
    found = module.quantized_latent_attention(q, numbers, scales, rest, positions, 0.1, 64)
    assert differ((found.numpy(),), (op.at("size").reference(*given),)) < 1e-12


@pytest.mark.parametrize(("wider", "copied"), [(208, True), (200, False)])
def test_what_is_not_aligned_is_tritons(
    wider: int, copied: bool, emulated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of rows that are the beginnings of wider ones."""
    launched = []
    whole = Emulated.__getitem__
    monkeypatch.setattr(
        Emulated, "__getitem__", lambda self, grid: launched.append(grid) or whole(self, grid)
    )
    assert differ(*run(replace(PLAIN, contexts=[70, 9]), ALONE, part_of=wider)) < CLOSE
    assert bool(launched) == copied


TRIED = replace(PLAIN, contexts=[150, 70], heads=66, tokens=2)
BROKEN = {
    "a block is waited for too late": ("wait_group(1)", "wait_group(2)"),
    "what others copy is not waited for": ("barrier()  # a thread", "# a thread"),
    "what is wide is not fenced": ("SCALES)\n        fence_async_shared()", "SCALES)"),
    "no barrier stands before the scores": ("barrier()\n        acc, top", "acc, top"),
    "the fence stands behind the barrier": (
        "fence_async_shared()\n        barrier()\n        acc",
        "barrier()\n        fence_async_shared()\n        acc",
    ),
    "blocks take no turns": ("turn = ahead", "turn = turn"),
    "all columns have the first scale": ("unit.slice(i, 1", "unit.slice(0, 1"),
    "numbers are of the first scale's columns": ("number.slice(i *", "number.slice(0 *"),
    "all columns are written to the first": ("key.slice(i *", "key.slice(0 *"),
    "numbers are not in units of scales": (".to(gl.float32) * scale", ".to(gl.float32)"),
    "numbers past the end are read": ("end - first, number", "BLOCK_N, number"),
    "scales past the end are read": ("end - first, unit", "BLOCK_N, unit"),
    "all rows have the first one's numbers": ("first, numbers_row,", "first, 0 * numbers_row,"),
    "all rows have the first one's scales": ("first, scales_row,", "first, 0 * scales_row,"),
    "all rows have the first one's rest": ("first, rest_row,", "first, 0 * rest_row,"),
}
BROKEN_PAGES = {
    "the table of the first row": ("table_ptr += batch * table_row", "table_ptr += 0 * table_row"),
    "the page of the block before": ("further // PAGE", "n // PAGE"),
    "the second block lies in the first page": ("(start + BLOCK_N) // PAGE", "start // PAGE"),
}


def holds_with(case: Case, *changes: tuple[str, str]) -> bool:
    def once(edit: Edit | None) -> tuple[Results, Results]:
        return case.run("float16", kernel=NAME, edit=edit)

    return holds(once, changed(ALONE, *changes), CLOSE)


def test_what_is_whole_holds(emulated: None) -> None:
    assert holds_with(TRIED)


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_caught(emulated: None, change: tuple[str, str]) -> None:
    assert not holds_with(TRIED, change)


@pytest.mark.parametrize("change", BROKEN_PAGES.values(), ids=BROKEN_PAGES)
def test_what_is_broken_of_pages_is_caught(emulated: None, change: tuple[str, str]) -> None:
    assert not holds_with(replace(PLAIN, contexts=[5, 330], page=64), change)
