"""Gradients of attention in Triton: against PyTorch's autograd in float64 of its reference."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
import pytest
import torch
from archsmith.compiler.ir.types import TensorType
from kernels.attention_cases import Case, gradients_of
from kernels.checks import Edit, Results, differ, emitted, holds, registry

# Of shares and scores' gradients in the stored dtype, and of sums in another order.
CLOSE = {"float32": 3e-6, "float16": 2e-3}


def whole(tokens: int, heads: int, kv_heads: int, key: int, value: int, **options: object) -> Case:
    """Queries of a context of their own, as in training."""
    return Case([tokens], heads, kv_heads, key, value, tokens=tokens, **options)  # type: ignore[arg-type]


CASES = [
    # few tokens, and tails of tiles: where nothing is to be learnt of a query, it has a sink
    whole(1, 2, 1, 16, 16, sinks=True),
    *(whole(n, 1, 1, 16, 16) for n in (2, 15, 16, 17, 31, 33, 63, 64, 65)),
    # groups of every size, and widths that a tile has to pad
    *(whole(n, r, 1, 16, 16) for n, r in ((18, 2), (20, 4), (9, 7), (33, 8))),
    *(whole(20, 2, 2, key, value) for key, value in ((8, 40), (24, 16), (80, 80), (192, 128))),
    whole(40, 4, 2, 192, 128),
    whole(33, 2, 1, 128, 128),
    whole(17, 2, 1, 256, 256),
    # windows of a slot, of a block, of less and more than one, and of more than the context
    whole(20, 2, 1, 16, 16, window=1, sinks=True),
    *(
        whole(n, 2, 1, 16, 16, window=w)
        for n, w in ((33, 2), (33, 15), (35, 16), (66, 17), (35, 18))
    ),
    *(whole(n, 3, 1, 24, 16, window=w) for n, w in ((64, 32), (34, 33), (33, 33), (20, 500))),
    # caps and sinks, alone and with all else
    whole(33, 2, 1, 16, 16, softcap=1.5),
    whole(35, 4, 2, 16, 16, sinks=True),
    whole(30, 7, 1, 24, 16, softcap=2.0, sinks=True, window=12),
    whole(20, 2, 1, 256, 256, softcap=5.0, window=10),
    whole(40, 16, 2, 64, 64, window=12, sinks=True),
    # rows whose tokens come behind others, and slots behind all of them
    Case([40, 25], 4, 2, 24, 16, tokens=20),
    Case([60, 23], 2, 1, 16, 16, tokens=20, window=18, softcap=2.0, sinks=True, slots=70),
    *(whole(n, 1, 1, 8, 8) for n in (3, 14, 18, 30, 32, 34, 47, 48, 49)),
    *(whole(n, r, 1, 8, 8, sinks=True) for n, r in ((1, 16), (2, 20), (17, 16))),
]


@pytest.mark.parametrize(("case", "dtype"), list(zip(CASES, cycle(CLOSE), strict=False)), ids=str)
def test_gradients(case: Case, dtype: str) -> None:
    assert differ(*gradients_of(case, dtype)) < CLOSE[dtype]


@pytest.mark.parametrize("target", ["a100", "b200", "mi300x"])
def test_other_targets_have_other_tiles(target: str) -> None:
    for case in (whole(70, 2, 1, 192, 128), whole(40, 2, 1, 256, 256, softcap=5.0, window=20)):
        assert differ(*gradients_of(case, "float16", target=target)) < CLOSE["float16"]


def test_operands_may_be_parts_of_wider_rows() -> None:
    part_of = {"q": 30, "k": 40, "v": 50, "gradient_0": 60}
    found = gradients_of(whole(20, 4, 2, 24, 16), "float16", part_of=part_of)
    assert differ(*found) < CLOSE["float16"]


@pytest.mark.parametrize("kept", ["q", "k", "v", "sinks"])
def test_only_what_is_wanted_is_computed(kept: str) -> None:
    names = ("q", "k", "v", "sinks")
    case = whole(20, 2, 1, 16, 16, sinks=True)
    for unwanted in ((kept,), tuple(name for name in names if name != kept)):
        found = gradients_of(case, "float16", unwanted=unwanted)
        assert differ(*found) < CLOSE["float16"]


def test_the_same_call_gives_the_same_bits() -> None:
    case = whole(70, 4, 1, 24, 16, sinks=True)
    for one, other in zip(*(gradients_of(case, "float16")[0] for _ in "ab"), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_reference_has_the_gradients_that_it_should() -> None:
    """By differences of its values, so that what kernels are held to is held too."""
    torch.manual_seed(0)
    kernel = registry().kernels["torch.attend"]()
    attend = emitted(kernel, {}, "cpu").attend
    shapes = (1, 5, 4, 6), (1, 5, 2, 6), (1, 5, 2, 3), (4,)
    exact = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    positions = torch.arange(5)[None]
    for options in ({"causal": True}, {"window": 2}, {"window": 3, "softcap": 1.5}):
        for given in (exact, exact[:3]):

            def results(q: torch.Tensor, *others: torch.Tensor, options: Any = options) -> Any:
                k, v, *sinks = others
                return attend(q, k, v, positions, 0.4, sinks=sinks[0] if sinks else None, **options)

            assert torch.autograd.gradcheck(results, given)


def test_what_does_not_fit_is_left_to_pytorch() -> None:
    kernel, chip = registry().kernels["triton.prefill_attention_gradients"](), "h200"
    shapes = ("T, 8, 264", "S, 8, 264", "S, 8, 128")
    types = (TensorType.parse(f"bfloat16[B, {shape}]") for shape in shapes)
    reason = kernel.refuses(CASES[0].op, tuple(types), registry().targets[chip])
    assert reason == "a head of 264 leaves no room for its sums: at most 256"


def test_rows_of_a_ring_have_no_gradients() -> None:
    case = whole(4, 2, 1, 16, 16, window=2)
    types = tuple(TensorType.parse(f"float32{t}" if t[0] == "[" else t) for t in case.types)
    kernel = registry().kernels["triton.prefill_attention_gradients"]()
    module = emitted(kernel, {case.op: types}, "h200")
    x, held = torch.ones(1, 4, 2, 16), torch.ones(1, 4)
    with pytest.raises(ValueError, match="no gradients of rows that a cache keeps"):
        module.prefill_attention_gradients.launch(
            *(x, x, x, held, 0.2, True, 2, None, None, held, x, held, x, [True] * 3)
        )


PART = {"q": 50, "k": 50, "v": 50, "gradient_0": 60}
# One block of slots with every option; several blocks; and some of which a query sees two.
RUNS = {
    "one": Case([15, 13], 2, 2, 40, 20, tokens=13, window=9, softcap=2.0, sinks=True),
    "several": whole(33, 1, 1, 16, 16),
    "window": whole(52, 1, 1, 16, 16, window=18),
}
BROKEN = {
    "a cap has no slope": ("one", "slope = 1 - tanh * tanh", "slope = 1.0"),
    "a slope has another unit": ("one", "1 / (SOFTCAP * 1.4426950408889634)", "1 / SOFTCAP"),
    "shares are of no total": ("one", "score * scale - lse", "score * scale"),
    "delta is left out of queries": ("one", "dshare - delta[:, None]", "dshare"),
    "delta is left out of keys": ("one", "dshare - delta[None, :]", "dshare"),
    "queries' gradients are not scaled": ("one", "dq * scale", "dq"),
    "keys' gradients are not scaled": ("one", "dk * scale", "dk"),
    "values' gradients are scaled": ("one", "there, dv, 0", "there, dv * scale, 0"),
    "the rest of queries is left out": ("one", "dq_rest * scale", "dq_rest * 0"),
    "the rest of keys is left out": ("one", "dk_rest * scale", "dk_rest * 0"),
    "keys' first columns are left out": ("one", "tl.trans(k_rest), score,", "tl.trans(k_rest),"),
    "queries' first columns are left out": ("one", "tl.trans(q_rest), score,", "tl.trans(q_rest),"),
    "gradients are taken to be dense": ("one", "+ head * dout_head", "+ head * V"),
    "all rows have one's gradients": ("one", "batch * dout_row", "0 * dout_row"),
    "all rows have one's totals": ("one", "lse_ptr += batch * tokens", "lse_ptr += 0 * tokens"),
    "all rows have one's deltas": ("one", "delta_ptr += batch * tokens", "delta_ptr += 0 * tokens"),
    "all rows have one's positions": ("one", "batch * positions_row", "0 * positions_row"),
    "all groups have one's heads": ("one", "head = group * R + row % R", "head = row % R"),
    "all groups have one's keys": ("one", "group * k_head", "0 * k_head"),
    "slots past the last are there": ("one", "there = slot < slots", "there = slot >= 0"),
    "sinks grow with their share": ("one", "-(share * delta)", "(share * delta)"),
    "a sink has another unit": ("one", " / math.log(2) - lse", " - lse"),
    "rows past the last are there": ("several", 'mask=there, other=float("inf")', "mask=row >= 0"),
    "the first queries are left out": ("several", "(lowest - first, 0)", "(lowest - first + 1, 0)"),
    "own queries have no mask": ("several", "BLOCK_N - 1 - first", "BLOCK_N - 17 - first"),
    "the last slots are left out": ("several", "newest, seen, end", "newest, seen, seen"),
    "what all see is left out": ("several", "newest, first, seen", "newest, first, first"),
    "tiles are passed over": ("several", "1 - tl.program_id(1)", "1 - tl.program_id(1) // 2"),
    "a window is wider by one": ("window", "seen &= at > position", "seen &= at >= position"),
    "a window ends early": ("window", "BLOCK_N - 1 + WINDOW", "BLOCK_N - 17 + WINDOW"),
    "a window's end has no mask": ("window", "(lowest + WINDOW - first, 0) * R)", "(end, 0))"),
    "a window's edge has no mask": ("window", "(newest - WINDOW + 1, 0)", "(newest - 40, 0)"),
    "a window's edge is left out": ("window", "edge = tl.maximum", "edge = BLOCK_N + tl.maximum"),
}


@pytest.mark.parametrize("run", RUNS)
def test_what_is_to_be_broken_holds(run: str) -> None:
    assert differ(*gradients_of(RUNS[run], "float32", part_of=PART)) < CLOSE["float32"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of what is not a number
@pytest.mark.parametrize(("run", "was", "becomes"), BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_caught(run: str, was: str, becomes: str) -> None:
    def broken(edit: Edit | None) -> tuple[Results, Results]:
        return gradients_of(RUNS[run], "float32", part_of=PART, edit=edit)

    assert not holds(broken, lambda text: text.replace(was, becomes), CLOSE["float32"])
