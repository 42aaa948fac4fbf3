"""Attention of many heads to one latent in Gluon: run by NumPy, and every step down from there."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.attention import Attend
from kernels.checks import (
    Edit,
    Results,
    differ,
    emitted,
    holds,
    in_pages,
    interpreted,
    registry,
)
from kernels.expert_cases import changed
from kernels.gluon_numpy import Emulated, emulate

CLOSE = 2e-3  # of the weights' and the result's rounding to float16
KEY, REST = 128, 64


OP = Attend((KEY + REST) ** -0.5, value_in_key=True)


@dataclass(frozen=True)
class Latent:
    """Queries at the last tokens of each row's context, and a latent that nothing follows."""

    contexts: Sequence[int]
    heads: int = 64
    tokens: int = 1
    slots: int = 0
    page: int = 0

    def __str__(self) -> str:
        kind = f"{self.tokens}of{'+'.join(map(str, self.contexts))}-{self.heads}"
        return f"{kind}-page{self.page}" if self.page else kind

    def run(self, edit: Edit | None = None, wider: int = 0) -> tuple[Results, Results]:
        """Of queries that are `wider` rows' beginnings, if any."""
        slots = self.slots or max(self.contexts)
        rows = np.random.default_rng(1).standard_normal((len(self.contexts), slots, 1, KEY + REST))
        for row, context in zip(rows, self.contexts, strict=True):
            row[context:] = np.nan
        first = np.maximum(np.array(self.contexts)[:, None] - self.tokens, 0)
        return interpreted(
            "gluon.latent_attention",
            replace(OP, page=Dim.of(self.page)) if self.page else OP,
            [
                f"[B, T, {self.heads}, {KEY + REST}]",
                f"[B, S, 1, {KEY + REST}]",
                f"[B, S, 1, {KEY}]",
                "int64[B, T]",
            ],
            Sizes(len(self.contexts), self.tokens, slots),
            dtype="float16",
            values={
                "k": rows,
                "v": rows[..., :KEY],
                "positions": first + np.arange(self.tokens),
            },
            part_of={"q": wider},
            edit=edit,
            phases=("decode",),
            given=in_pages({"k": rows, "v": rows[..., :KEY]}, self.page, self.contexts)
            if self.page
            else None,
        )


@pytest.fixture
def emulated(monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch, "latent_split", "split")


# Contexts that are not shared out; and splits of several blocks, more than are combined at once.
ALONE = ("PROCESSORS = 132", "PROCESSORS = 1")
SHARED = (ALONE, ("MOST = 8192", "MOST = 64"), ("_S=8", "_S=2"))
CASES = [
    *(Latent([n]) for n in (1, 2, 63, 64, 65, 127, 128, 129)),
    Latent([130, 1, 64, 65]),
    Latent([200, 20], slots=300),
    *(Latent([n, 70], heads=h) for n in (90, 150) for h in (64, 65, 100, 128)),
    *(Latent([n, 9], tokens=t) for n in (70, 150) for t in (2, 5, 8)),
    Latent([64, 3], tokens=3, heads=96),
    *(Latent([63, 129, 200, 1], page=page, slots=210) for page in (64, 128)),
]
MORE = [
    Latent([4097]),
    *(Latent([n, 17, 80], slots=85) for n in (16, 63)),
    *(Latent([n, 1, 3, 70, 64, 5, 66, 9][:rows]) for n in (1, 65) for rows in (3, 5, 8)),
    *(Latent([2, 3] * rows, slots=5) for rows in (8, 16, 64)),
    *(Latent([n, 4], tokens=t) for n in (4, 66) for t in (3, 4)),
    *(Latent([n], heads=h) for n in (1, 64, 65) for h in (72, 128)),
    *(Latent([3, n], page=64) for n in (1, 65)),
]


@pytest.mark.parametrize("case", CASES + MORE, ids=lambda case: str(case)[:24])
def test_latent_attention(emulated: None, case: Latent) -> None:
    assert differ(*case.run(changed(ALONE))) < CLOSE


@pytest.mark.parametrize(
    "case", [Latent([257]), Latent([700]), Latent([300, 20]), Latent([300, 20], page=64)], ids=str
)
def test_a_context_that_is_shared_out(emulated: None, case: Latent) -> None:
    assert differ(*case.run()) < CLOSE
    assert differ(*case.run(changed(*SHARED))) < CLOSE


@pytest.mark.parametrize("case", CASES[::4], ids=str)
def test_without_gluon_it_is_tritons(case: Latent) -> None:
    assert differ(*case.run()) < CLOSE


@pytest.mark.parametrize(("wider", "copied"), [(KEY + REST + 16, True), (KEY + REST + 8, False)])
def test_what_is_not_aligned_is_tritons(
    wider: int, copied: bool, emulated: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows are copied by 16 bytes, of which Triton knows where strides are multiples of 16."""
    launched = []
    whole = Emulated.__getitem__
    monkeypatch.setattr(
        Emulated, "__getitem__", lambda self, grid: launched.append(grid) or whole(self, grid)
    )
    assert differ(*Latent([70, 9]).run(changed(ALONE), wider)) < CLOSE
    assert bool(launched) == copied


def test_on_a_cpu_it_is_pytorchs() -> None:
    """Through both kernels that stand in for one another, in float64."""
    texts = f"[B, T, 64, {KEY + REST}]", f"[B, S, 1, {KEY + REST}]", f"[B, S, 1, {KEY}]"
    types = *(f"float16{text}" for text in texts), "int64[B, T]"
    kernel = registry().kernels["gluon.latent_attention"]()
    module = emitted(kernel, {OP: tuple(map(TensorType.parse, types))}, "h200")
    q = torch.randn(2, 3, 64, KEY + REST, dtype=torch.float64)
    k = torch.randn(2, 40, 1, KEY + REST, dtype=torch.float64)
    given = q, k, k[..., :KEY], torch.tensor([[5, 6, 7], [37, 38, 39]]), 0.1
    attend = sys.modules[f"{module.__package__}.attend"].attend
    found = module.latent_attention(*given, value_in_key=True)
    assert differ([found.numpy()], [attend(*given).numpy()]) < 1e-12


def test_where_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """On Hopper alone, with a Triton that has its names, and where it is compiled ahead."""
    texts = f"[B, T, 64, {KEY + REST}]", f"[B, S, 1, {KEY + REST}]", f"[B, S, 1, {KEY}]"
    types = *(f"float16{text}" for text in texts), "int64[B, T]"
    kernel = registry().kernels["gluon.latent_attention"]()
    module = emitted(kernel, {OP: tuple(map(TensorType.parse, types))}, "h200")
    runs = sys.modules[f"{module.__package__}.gluon"].runs_on_hopper
    capability = (9, 0)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    on_gpu = SimpleNamespace(is_meta=False, is_cuda=True, device="cuda")
    assert runs(on_gpu)
    assert runs(torch.empty(1, device="meta"))
    assert not runs(torch.empty(1))
    capability = (10, 0)
    assert not runs(on_gpu)
    capability = (9, 0)
    monkeypatch.setitem(runs.__globals__, "warpgroup_mma", None)
    assert not runs(on_gpu)
    assert not runs(torch.empty(1, device="meta"))


TRIED = Latent([150, 70], heads=66, tokens=2)
BROKEN = {
    "a row sees the slot behind its own": ("last[:, None]", "last[:, None] + 1"),
    "a row does not see its own slot": ("<= last[:, None]", "< last[:, None]"),
    "a tile sees what its first row does": ("gl.max(position, 0)", "-gl.max(-position, 0)"),
    "all slots are read": ("count, key, BLOCK_N", "BLOCK_N, key, BLOCK_N"),
    "rows past the last are others": ("tokens * R - 1)", "tokens * R)"),
    "the first key's scores are forgotten": ("(1, 0)), score, is_async", "(1, 0)), zero, is_async"),
    "what was added up does not shrink": (
        "acc * gl.convert_layout(shrink, gl.SliceLayout(1, values))[:, None]",
        "acc",
    ),
    "the total does not shrink": ("total * shrink", "total"),
    "one block is waited for too late": ("wait_group(1)", "wait_group(2)"),
    "weights are not fenced": (
        "weights.dtype))\n    fence_async_shared()",
        "weights.dtype))",
    ),
    "no barrier ends a block": ("barrier()  # before", "# before"),
    "no barrier stands before the scores": ("barrier()\n        acc, top", "acc, top"),
    "blocks take no turns": ("turn = ahead", "turn = turn"),
}
BROKEN_SHARED = {
    "a split goes on into the next": ("gl.minimum(start + share, seen)", "seen"),
    "splits that see nothing say nothing": (", none)", ", none * 0.0)"),
    "a split's part is not weighed": ("weight[:, None] * part", "part"),
    "splits past the first few are forgotten": ("range(0, splits, BLOCK_S)", "range(1)"),
}


def test_what_is_whole_holds(emulated: None) -> None:
    assert holds(TRIED.run, changed(ALONE), CLOSE)


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_caught(emulated: None, change: tuple[str, str]) -> None:
    assert not holds(TRIED.run, changed(ALONE, change), CLOSE)


BROKEN_PAGES = {
    "the table of the first row": ("table_ptr += batch * table_row", "table_ptr += 0 * table_row"),
    "the page of the block before": ("further // PAGE", "n // PAGE"),
    "the second block lies in the first page": ("(start + BLOCK_N) // PAGE", "start // PAGE"),
    "a page is one block": ("slot % PAGE", "slot * 0"),
}


@pytest.mark.parametrize("change", BROKEN_PAGES.values(), ids=BROKEN_PAGES)
def test_what_is_broken_of_pages_is_caught(emulated: None, change: tuple[str, str]) -> None:
    page = 128 if change[0] == "slot % PAGE" else 64
    assert not holds(Latent([5, 330], page=page).run, changed(ALONE, change), CLOSE)


@pytest.mark.parametrize("change", BROKEN_SHARED.values(), ids=BROKEN_SHARED)
def test_what_is_broken_of_splits_is_caught(emulated: None, change: tuple[str, str]) -> None:
    assert not holds(Latent([330, 2]).run, changed(*SHARED, change), CLOSE)
