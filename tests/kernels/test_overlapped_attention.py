"""Attention of many queries in Gluon: run by NumPy, and every step down from there."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
from kernels import checks
from kernels.attention_cases import Case
from kernels.checks import Edit, Results, differ, emitted, holds
from kernels.expert_cases import changed
from kernels.gluon_numpy import Emulated

KERNEL = "gluon.prefill_attention"
CLOSE = 2e-3  # of the weights' and the result's rounding to float16
ANY = ("FEW = 64", "FEW = 0")  # rows, however few


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Gluon is there, and NumPy runs it; the grids of what it ran."""
    grids: list[Any] = []

    def patched(*arguments: Any) -> ModuleType:
        module = emitted(*arguments)
        monkeypatch.setattr(module, "runs_on_hopper", lambda x: True)
        file = sys.modules[f"{module.__package__}.overlapped_tile"]
        monkeypatch.setattr(module, "attend_tile", Emulated(file, "attend_tile"))
        return module

    whole = Emulated.__getitem__
    monkeypatch.setattr(
        Emulated, "__getitem__", lambda self, grid: grids.append(grid) or whole(self, grid)
    )
    monkeypatch.setattr(checks, "emitted", patched)
    return grids


def run(case: Case, *changes: tuple[str, str]) -> tuple[Results, Results]:
    return case.run(KERNEL, "float16", edit=changed(ANY, *changes))


CASES = [
    # contexts of their own, whole: less and more than a block, and than a tile
    *(Case([n], 2, 1, 64, 64, tokens=n) for n in (1, 2, 63, 64, 65, 128, 129, 257)),
    *(Case([n], 2, 2, 192, 128, tokens=n) for n in (1, 127, 129, 260)),
    # the ends of longer ones, and rows of unlike lengths
    *(Case([n], 4, 1, 128, 128, tokens=t) for n, t in ((128, 2), (129, 33), (300, 9), (255, 70))),
    Case([300, 17, 128], 7, 1, 64, 64, tokens=17),
    Case([130, 127], 3, 3, 192, 128, tokens=127),
    # blocks of 64 slots, and slots past the longest row
    Case([150, 90], 2, 1, 256, 256, tokens=90),
    Case([140, 3], 6, 2, 128, 64, tokens=3, slots=150),
    # windows of one slot, of less and more than a block, of the context, and of more than it
    *(Case([n], 2, 1, 64, 64, tokens=n, window=w) for n, w in ((1, 1), (129, 1), (130, 64))),
    *(Case([n], 2, 1, 64, 64, tokens=n, window=w) for n, w in ((300, 128), (300, 129), (90, 500))),
    Case([400, 150], 3, 1, 128, 128, tokens=100, window=130),
    # sinks and caps, alone and with all else
    Case([140], 8, 2, 64, 64, tokens=140, sinks=True),
    Case([140], 8, 2, 64, 64, tokens=140, softcap=2.0),
    Case([270, 90], 5, 1, 64, 64, tokens=85, window=100, softcap=2.0, sinks=True, slots=280),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_overlapped_attention(launched: list[Any], case: Case) -> None:
    assert differ(*run(case)) < CLOSE
    assert launched


@pytest.mark.parametrize("bytes_kept", ["1", "80000", "250000"])
def test_heads_whose_keys_stay_in_the_cache_run_together(
    launched: list[Any], bytes_kept: str
) -> None:
    """One head, two heads and five of six, whose last part is smaller than the others."""
    case = Case([200, 140], 6, 3, 64, 64, tokens=140)
    assert differ(*run(case, ("CACHED = 1 << 25", f"CACHED = {bytes_kept}"))) < CLOSE
