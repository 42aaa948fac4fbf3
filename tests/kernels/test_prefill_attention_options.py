"""Windows, caps and sinks in Triton with a broken text, and rows that a cache keeps in a ring."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from archsmith.compiler.ir.types import TensorType
from kernels.attention_cases import CLOSE, Case
from kernels.checks import Edit, Results, as_arrays, differ, emitted, holds, registry
from kernels.guards import Guards, guarded

KERNEL = "triton.prefill_attention"
WINDOWED = Case([25, 53], 2, 2, 16, 16, tokens=18, window=19, softcap=2.0, sinks=True)
BROKEN = {
    "a window is wider by one": ("seen &= at > position", "seen &= at >= position"),
    "a window is narrower by one": ("seen &= at > position", "seen &= at > 1 + position"),
    "slots before the window are read": ("(at >= oldest) & ", ""),
    "the oldest slot is left out": ("tl.min(position) - WINDOW + 1, 0)", "tl.min(position), 0)"),
    "the first block is passed over": (
        "oldest // BLOCK_N * BLOCK_N",
        "tl.cdiv(oldest, BLOCK_N) * BLOCK_N",
    ),
    "the window's edge has no mask": ("tl.cdiv(tl.maximum(newest - WINDOW + 1, 0), BLOCK_N)", "0"),
    "a sink is left out of the total": ("total += 1.0", "total += 0.0"),
    "a sink has another unit": (".to(tl.float32) * 1.4426950408889634", ".to(tl.float32)"),
    "all heads have the first one's sink": ("sinks_ptr + head", "sinks_ptr + 0 * head"),
    "a cap is half as steep": ("scale * (2 * 1.44", "scale * (1 * 1.44"),
    "a cap has another unit": ("SOFTCAP * 1.4426950408889634", "SOFTCAP * 1.0"),
    "what is capped is scaled once more": (
        "capped(score, scale, SOFTCAP), 1.0",
        "capped(score, scale, SOFTCAP), scale",
    ),
}


@pytest.mark.parametrize("change", [None, *BROKEN.values()], ids=["whole", *BROKEN])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of what is not a number
def test_what_is_broken_is_caught(change: tuple[str, str] | None) -> None:
    def run(edit: Edit | None) -> tuple[Results, Results]:
        return WINDOWED.run(KERNEL, "float32", edit=edit)

    edit = None if change is None else lambda text: text.replace(*change)
    assert holds(run, edit, CLOSE["float32"]) == (change is None)


RING = Case([60, 23, 4], 4, 2, 24, 16, tokens=4, window=17)


def ring(size: int, apart: bool, edit: Edit | None = None) -> tuple[Results, Results]:
    """What the kernel computes of rings of `size` slots, of which some were never written, and of
    the call's own rows behind them where these are `apart`; and what PyTorch does."""
    types = tuple(TensorType.parse(t if "[" not in t[:1] else f"float32{t}") for t in RING.types)
    values = {"module": SimpleNamespace(windowed=True, page=None)}
    kernel = registry().kernels[KERNEL]()
    module = emitted(kernel, {RING.op: types}, "h200", edit, values=values)
    given = RING.values("float32")
    batch, most = len(RING.contexts), np.iinfo(np.int64).max
    held = np.full((batch, size), most)
    rows = {name: np.full((batch, size, *given[name].shape[2:]), np.nan) for name in "kv"}
    for row, context in enumerate(RING.contexts):
        stop = context - RING.tokens * apart
        for position in range(max(stop - size, 0), stop):
            held[row, position % size] = position
            for name in "kv":
                rows[name][row, position % size] = given[name][row, position]
    if apart:
        at = given["positions"]
        held = np.concatenate((held, at), 1)
        for name in "kv":
            own = np.take_along_axis(given[name], at[:, :, None, None], 1)
            rows[name] = np.concatenate((rows[name], own), 1)
    q, k, v = (guarded(torch.tensor(x).float()) for x in (given["q"], rows["k"], rows["v"]))
    where = torch.tensor(given["positions"]), 0.2, False, RING.window, None, None
    with Guards() as guards:
        found = module.prefill_attention.launch(q, k, v, *where, guarded(torch.tensor(held)))
    guards.check()
    exact = (x.double().nan_to_num() for x in (q, k, v))
    wanted = module.prefill_attention.reference(*exact, *where, torch.tensor(held))
    return as_arrays(found[:1]), as_arrays(wanted)


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("size", [20, 33])
def test_a_ring_says_which_positions_it_holds(size: int, apart: bool) -> None:
    assert differ(*ring(size, apart)) < CLOSE["float32"]


@pytest.mark.parametrize(
    "change",
    [
        ("tl.minimum(at, 0x7FFFFFFF).to(tl.int32)", "at.to(tl.int32)"),
        ("held_ptr += batch * held_row", "held_ptr += 0 * held_row"),
        ("mask=at < end", "mask=at < end - 1"),
        ("0, 0, 0, slots", "0, 0, 0, newest + 1"),
        ("if held_ptr is None:", "if True:"),
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of what is not a number
def test_what_is_broken_of_rings_is_caught(change: tuple[str, str]) -> None:
    def run(edit: Edit | None) -> tuple[Results, Results]:
        return ring(20, True, edit)

    assert not holds(run, lambda text: text.replace(*change), CLOSE["float32"])


def test_options_without_a_text_are_an_error() -> None:
    case = Case([4], 2, 1, 16, 16, tokens=4)
    types = tuple(TensorType.parse(t if t[0] != "[" else f"float32{t}") for t in case.types)
    kernel = registry().kernels[KERNEL]()
    launch = emitted(kernel, {case.op: types}, "h200").prefill_attention.launch
    for options in ((3,), (None, 2.0), (None, None, torch.ones(2))):
        with pytest.raises(ValueError, match="there is no kernel for these options"):
            launch(*[torch.ones(1, 4, 2, 16)] * 3, torch.ones(1, 4), 0.2, False, *options)
