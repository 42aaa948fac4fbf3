"""Attention of many queries in Gluon: run by NumPy, and every step down from there."""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

import pytest
import torch
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.schedule.candidates import use
from kernels import checks
from kernels.attention_cases import Case
from kernels.checks import VALUES, Edit, Results, differ, emitted, holds, registry
from kernels.emissions import imported
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
    *(Case([n], 2, 1, 64, 64, tokens=n) for n in (1, 63, 64, 65, 129, 257)),
    *(Case([n], 2, 2, 192, 128, tokens=n) for n in (2, 128, 260)),
    # the ends of longer ones, and rows of unlike lengths
    *(Case([n], 4, 1, 128, 128, tokens=t) for n, t in ((128, 2), (129, 33), (300, 9), (255, 70))),
    Case([300, 17, 128], 7, 1, 64, 64, tokens=17),
    Case([130, 127], 3, 3, 192, 128, tokens=127),
    # slots past the longest row
    Case([140, 3], 6, 2, 128, 64, tokens=3, slots=150),
    # windows of one slot, of less and more than a block, of the context, and of more than it
    *(Case([n], 2, 1, 64, 64, tokens=n, window=w) for n, w in ((1, 1), (129, 1), (130, 64))),
    *(Case([n], 2, 1, 64, 64, tokens=n, window=w) for n, w in ((300, 128), (300, 129), (90, 500))),
    # blocks of 64 slots
    Case([400, 150], 3, 1, 128, 128, tokens=100, window=130),
    # sinks and caps, alone and with all else
    Case([140], 8, 2, 64, 64, tokens=140, sinks=True),
    Case([140], 8, 2, 64, 64, tokens=140, softcap=2.0),
    Case([270, 90], 5, 1, 64, 64, tokens=85, window=100, softcap=2.0, sinks=True, slots=280),
    # few tokens, tails and groups
    *(Case([n], 1, 1, 64, 64, tokens=n) for n in (2, 3, 17, 62, 66, 127, 128, 130)),
    *(Case([n], r, 1, 64, 64, tokens=t) for n, t, r in ((65, 1, 16), (66, 64, 2), (64, 2, 20))),
    *(Case([n, 5], 1, 1, 64, 64, tokens=5) for n in (5, 63, 64, 65, 130)),
    *(Case([n], 1, 1, 64, 64, tokens=n, window=w) for n, w in ((65, 63), (65, 64), (66, 65))),
    *(Case([n], 1, 1, 64, 64, tokens=n, sinks=True) for n in (1, 65)),
    *(Case([n], 1, 1, 64, 64, tokens=n, softcap=2.0) for n in (64, 65)),
    Case([2] * 16, 1, 1, 64, 64, tokens=2),
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


@pytest.mark.parametrize(
    "case", [Case([140, 70], 4, 2, 64, 64, tokens=70, window=40, sinks=True)], ids=str
)
def test_without_gluon_it_is_tritons(case: Case) -> None:
    assert differ(*run(case)) < CLOSE


ALONE = Case([150, 90], 2, 1, 64, 64, tokens=66)
LEFT: dict[str, tuple[Case, int, tuple[str, str]]] = {
    "few rows": (ALONE, 0, ("FEW = 64", "FEW = 132")),
    "rows that are not copied by 16 bytes": (ALONE, 72, ANY),
    "slots that are far apart": (ALONE, 0, ("FAR = 1 << 24", "FAR = 64")),
    "a window's rows in a ring": (
        Case([90, 66], 2, 1, 64, 64, tokens=33, window=20, ring=60),
        0,
        ANY,
    ),
}


@pytest.mark.parametrize(("case", "part_of", "change"), LEFT.values(), ids=LEFT)
def test_what_is_left_to_triton(
    launched: list[Any], case: Case, part_of: int, change: tuple[str, str]
) -> None:
    found = case.run(KERNEL, "float16", edit=changed(change), part_of=part_of)
    assert differ(*found) < CLOSE
    assert not launched
    assert differ(*run(ALONE)) < CLOSE
    assert launched


def test_elsewhere_it_is_pytorchs() -> None:
    """On a CPU, through both kernels that stand in for one another; with PyTorch's gradients."""
    types = tuple(TensorType.parse(t if t[0] != "[" else f"float16{t}") for t in ALONE.types)
    module = emitted(registry().kernels[KERNEL](), {ALONE.op: types}, "h200")
    shapes = (2, 66, 2, 64), (2, 66, 1, 64), (2, 66, 1, 64)
    exact = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    arguments = *exact, torch.arange(66).expand(2, -1), 0.125
    attend = sys.modules[f"{module.__package__}.attend"].attend
    found, wanted = module.overlapped_attention(*arguments, causal=True), attend(*arguments)
    for x, y in zip(
        (found, *torch.autograd.grad(found.sum(), exact)),
        (wanted, *torch.autograd.grad(wanted.sum(), exact)),
        strict=True,
    ):
        torch.testing.assert_close(x, y)


def test_tritons_gradients_go_on_from_what_it_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Results, and logarithms of totals, as a package has them that trains."""
    case = Case([80, 80], 2, 1, 64, 64, tokens=80)
    types = tuple(TensorType.parse(t if t[0] != "[" else f"float16{t}") for t in case.types)
    chip, kernels = registry().targets["h200"], registry().kernels
    names = KERNEL, kernels[KERNEL].gradient, "triton.prefill_attention", "torch.attend"
    forward, gradient, *others = (kernels[name]() for name in names)
    files = {
        stem: kernel_file(kernel, [use(kernel, case.op, types, chip)], chip, VALUES, own, part=stem)
        for kernel in (gradient, *others, forward)
        for own in [None if kernel is gradient else gradient]
        for stem in (kernel.stem(), *kernel.parts)
    }
    files["operators"] = operators_file(registry().templates["operators.py"], files, 2)
    module = imported(tuple(sorted(files.items())), forward.stem())
    file = sys.modules[f"{module.__package__}.overlapped_tile"]
    monkeypatch.setattr(module, "attend_tile", Emulated(file, "attend_tile"))
    monkeypatch.setattr(module, "runs_on_hopper", lambda x: True)
    operands = {
        key: torch.from_numpy(x) for key, x in case.values("float16").items() if key != "positions"
    }
    exact = {key: x.double().requires_grad_() for key, x in operands.items()}
    where = torch.arange(80).expand(2, -1), case.op.scale, True
    given = [operands[key].requires_grad_() for key in "qkv"]
    found = module.overlapped_attention.registered(*given, *where)
    wanted = module.overlapped_attention(*(exact[key] for key in "qkv"), *where)
    along = torch.randn_like(wanted)
    differences = differ(
        checks.as_arrays(torch.autograd.grad(found, given, along.half())),
        checks.as_arrays(torch.autograd.grad(wanted, list(exact[key] for key in "qkv"), along)),
    )
    assert differences < CLOSE


TRIED = Case([290, 150], 4, 2, 192, 128, tokens=70)
BROKEN = {
    "a row sees the slot behind its own": ("<= position[:, None]", "<= position[:, None] + 1"),
    "a row does not see its own slot": ("<= position[:, None]", "< position[:, None]"),
    "a block that some do not see has no mask": ("(least + 1) //", "(newest + 1) //"),
    "slots past the last are read": ("row <= newest", "row <= newest + 64"),
    "the first columns' scores are forgotten": (
        "columns, score, is_async",
        "columns, zero, is_async",
    ),
    "results do not shrink": (
        "acc * gl.convert_layout(shrink, gl.SliceLayout(1, values))[:, None]",
        "acc",
    ),
    "results do not shrink at last": ("acc * gl.convert_layout(shrink, by_value)[:, None]", "acc"),
    "the total does not shrink": ("total * shrink", "total"),
    "exp2 is taken for exp": ("scale *= 1.4426950408889634", "scale *= 1.0"),
    "totals are not what weights are shares of": ("top + gl.log2(total)", "top"),
    "copies are not waited for": ("wait_group(0)", "wait_group(1)"),
    "copies are not fenced": ("fence_async_shared()\n", "None\n"),
    "no barrier stands before the scores": ("barrier()\n        score", "score"),
    "no barrier stands before the first scores": ("barrier()\n    score", "score"),
    "no barrier stands before the last values": ("barrier()\n    acc", "acc"),
    "scores are read before they are there": ("wait(1, deps=[score])", "wait(2, deps=[score])"),
    "results are read before they are there": (
        "wait(0, deps=[acc, read])",
        "wait(1, deps=[acc, read])",
    ),
    "weights are not kept while they are read": ("        read = weight\n", ""),
    "values are another block's": ("value.index(other), acc", "value.index(turn), acc"),
    "keys are copied to where they are read": ("key, rest, other, KEY", "key, rest, turn, KEY"),
    "values are copied to where they are read": (
        "value.index(turn), VALUE",
        "value.index(other), VALUE",
    ),
    "blocks take no turns": ("turn = other", "turn = turn"),
    "a block is passed over": ("at - BLOCK_N, oldest", "at - 2 * BLOCK_N, oldest"),
    "the last tile is all there is": ("tiles - 1 - program // here", "tiles - 1 - 0 * program"),
    "rows past the last are others": ("tokens - 1).to(gl.int64)", "tokens).to(gl.int64)"),
    "all groups have the first one's keys": ("group * k_head", "0 * k_head"),
    "all groups have the first one's values": ("group * v_head", "0 * v_head"),
    "a group's heads are the first ones": ("group * R * q_head", "0 * q_head"),
    "all rows have the first one's keys": ("batch * k_row", "0 * k_row"),
    "all rows have the first one's values": ("batch * v_row", "0 * v_row"),
    "all rows have the first one's positions": ("batch * positions_row", "0 * positions_row"),
}
OTHERS = Case([400, 150], 4, 2, 64, 64, tokens=100, window=130, softcap=2.0, sinks=True)
BROKEN_OPTIONS = {
    "a window is wider by one": ("> position[:, None] - WINDOW", ">= position[:, None] - WINDOW"),
    "slots before the window are read": ("(first + row >= oldest) & ", ""),
    "the oldest slots are left out": ("least - WINDOW + 1, 0)", "least, 0)"),
    "a window's edge has no mask": ("gl.cdiv(gl.maximum(newest - WINDOW + 1, 0), BLOCK_N)", "0"),
    "a sink is left out of the total": ("total += 1.0", "total += 0.0"),
    "all heads have the first one's sink": ("sinks_ptr + head", "sinks_ptr + 0 * head"),
    "a sink has another unit": (".to(gl.float32) * 1.4426950408889634", ".to(gl.float32)"),
    "a cap is half as steep": ("scale * (2 *", "scale * (1 *"),
    "what is capped is scaled once more": ("+ 1), 1.0", "+ 1), scale"),
}


@pytest.mark.parametrize("case", [TRIED, OTHERS], ids=["plain", "options"])
def test_what_is_whole_holds(launched: list[Any], case: Case) -> None:
    assert differ(*run(case)) < CLOSE


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of what is not a number
@pytest.mark.parametrize(
    "change", [*BROKEN.values(), *BROKEN_OPTIONS.values()], ids=[*BROKEN, *BROKEN_OPTIONS]
)
def test_what_is_broken_is_caught(launched: list[Any], change: tuple[str, str]) -> None:
    case = OTHERS if change in BROKEN_OPTIONS.values() else TRIED

    def broken(edit: Edit | None) -> tuple[Results, Results]:
        return case.run(KERNEL, "float16", edit=edit)

    assert not holds(broken, changed(ANY, change), CLOSE)


def test_heads_of_the_first_part_only_are_caught(launched: list[Any]) -> None:
    case = Case([200, 140], 6, 3, 64, 64, tokens=140)
    few = ("CACHED = 1 << 25", "CACHED = 80000")
    for change in (("- first_pair * tiles", ""), ("first_pair + program", "program")):

        def broken(edit: Edit | None) -> tuple[Results, Results]:
            return case.run(KERNEL, "float16", edit=edit)

        assert not holds(broken, changed(few, change), CLOSE)
