"""Gradients of grouped experts in Triton: against PyTorch's of their reference in float64."""

from __future__ import annotations

from itertools import cycle, product

import numpy as np
import pytest
import torch
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.experts import FusedExperts
from kernels.checks import Edit, Results, differ, emitted, gradients, holds, registry
from kernels.expert_cases import drawn, types

OURS = "triton.grouped_gemm_gradients"
OF = ("x", "weight", "gate_up", "down")
# Of sums in float32 in another order; of rows of gate, up and h and of their gradients in the
# stored dtype, on the way to a sum that is rounded once more.
CLOSE = {"float32": 3e-6, "float16": 3e-3}


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
    unwanted: tuple[str, ...] = (),
    target: str = "h200",
    batch: int = 1,
    edit: Edit | None = None,
) -> tuple[Results, Results]:
    """The kernel of the experts' gradients, of what `drawn` gives."""
    values = drawn(rows, experts, top_k, width, inner, batch, always, chosen)
    return gradients(
        OURS,
        FusedExperts(activation, always=Dim.of(always)),
        types(experts, top_k, width, inner),
        Sizes(batch, rows // batch, rows // batch),
        of=OF,
        dtype=dtype,
        unwanted=unwanted,
        values=values,
        target=target,
        edit=edit,
    )


# Rows; experts and experts a token; then, by turns, widths and inner widths.
ROWS = (1, 2, 3, 5, 7, 9, 17, 33, 40, 65)
EXPERTS = ((7, 2), (5, 3), (2, 1), (4, 4), (3, 2))
SIZES = ((32, 32), (16, 16), (40, 24), (17, 33), (16, 20), (20, 16), (48, 20))
SHAPES = [
    (rows, *experts, *sizes)
    for (rows, experts), sizes in zip(product(ROWS, EXPERTS), cycle(SIZES), strict=False)
]
SHAPES += [(4, 256, 8, 16, 16), *((rows, 1, 1, 16, 16) for rows in (1, 5, 33))]


@pytest.mark.parametrize(("shape", "dtype"), list(zip(SHAPES, cycle(CLOSE), strict=False)), ids=str)
def test_gradients(shape: tuple[int, ...], dtype: str) -> None:
    assert differ(*run(*shape, dtype=dtype)) < CLOSE[dtype]


def test_of_no_tokens_there_is_nothing() -> None:
    op, texts = FusedExperts("silu"), types(3, 2, 16, 24)
    whole = tuple(TensorType.parse(t if t[0] != "[" else f"float32{t}") for t in texts)
    given = [torch.empty(t.sizes("size", B=2, T=0, S=0)) for t in whole]
    given[1] = given[1].long()
    kernel = registry().kernels[OURS]()
    launch = emitted(kernel, {op: whole}, "h200").grouped_experts_gradients.launch
    found = launch(*given, "silu", given[0], [True] * 4)
    assert [x.shape for x in found] == [given[i].shape for i in (0, 2, 3, 4)]
    assert not any(x.any() for x in found)


@pytest.mark.parametrize("shape", [(1, 6, 3, 1), (40, 5, 3, 2)], ids=str)
def test_experts_that_are_always_used(shape: tuple[int, ...]) -> None:
    rows, experts, top_k, always = shape
    for dtype, error in CLOSE.items():
        found = run(rows, experts, top_k, 24, 16, always=always, dtype=dtype)
        assert differ(*found) < error


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh", "relu"])
def test_activations(activation: str) -> None:
    assert differ(*run(20, 3, 2, 32, 32, activation=activation)) < CLOSE["float32"]


# Experts that no token chose: all but one, the first and the last, all but the first or the last.
@pytest.mark.parametrize("chosen", [(3,), (1, 2, 4, 6), (0,), (7,)], ids=str)
@pytest.mark.parametrize("rows", [5, 65])
def test_experts_that_have_no_tokens(rows: int, chosen: tuple[int, ...]) -> None:
    top_k = min(len(chosen), 2)
    found = run(rows, 8, top_k, 16, 16, dtype="float16", chosen=chosen)
    assert differ(*found) < CLOSE["float16"]
    others = [expert for expert in range(8) if expert not in chosen]
    assert all((gradient[others] == 0).all() for gradient in found[0][2:])


@pytest.mark.parametrize("target", ["a100", "b200", "mi300x"])
def test_other_targets_have_other_tiles(target: str) -> None:
    assert differ(*run(140, 2, 1, 144, 72, dtype="float16", target=target)) < CLOSE["float16"]


def test_a_batch_is_rows() -> None:
    assert differ(*run(24, 5, 2, 32, 32, batch=3)) < CLOSE["float32"]


def test_the_same_call_gives_the_same_bits() -> None:
    for one, other in zip(*(run(40, 5, 3, 48, 40, dtype="float16")[0] for _ in "ab"), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kept", OF)
def test_only_what_is_wanted_is_computed(kept: str) -> None:
    for unwanted in ((kept,), tuple(name for name in OF if name != kept)):
        assert differ(*run(24, 5, 2, 32, 32, unwanted=unwanted)) < CLOSE["float32"]


def test_the_reference_has_the_gradients_that_it_should() -> None:
    """Against differences of its values, so that what kernels are held to is held too."""
    torch.manual_seed(0)
    kernel, op = registry().kernels["torch.fused_experts"](), FusedExperts("silu")
    whole = tuple(TensorType.parse(t if t[0] != "[" else f"float64{t}") for t in types(5, 2, 6, 3))
    reference = emitted(kernel, {op: whole}, "cpu").fused_experts
    index = torch.rand(1, 4, 5).topk(2).indices
    shapes = (1, 4, 6), (1, 4, 2), (5, 2, 3, 6), (5, 6, 3)
    exact = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert torch.autograd.gradcheck(lambda x, *others: reference(x, index, *others), exact)


BROKEN = {
    "a tile has its expert's first rows": ("start += (tile - start", "start += 0 * (tile - start"),
    "there are too few tiles": (' // tile["BLOCK_M"] + E', ' // tile["BLOCK_M"]'),
    "columns past the last are stored": ("live = live & (col < OUT)", "live = live"),
    "columns past the last are stored, of weights": (" & (col < N))", ")"),
    "x is read past its row": ("mask=along < IN", "mask=along >= 0"),
    "rows of x are those of choices": ("(x, token, starts", "(x, choice // 3, starts"),
    "the gradient is not gathered": ("(dy, token, starts, down", "(dy, None, starts, down"),
    "rows are not brought back": ("gate_up, rows, choice,", "gate_up, rows, None,"),
    "an expert's weight is the first's": ("expert.to(tl.int64) * (IN * OUT)", "0"),
    "up has the gradient of gate": ("(dh * lifted).to", "(dh * up * slope).to"),
    "gate is not differentiated": ("(dh * up * slope)", "(dh * up)"),
    "the share is left out": ("dh *= share", "dh *= 1.0"),
    "h has no share": ("(lifted * up * share)", "(lifted * up)"),
    "the share is in its own gradient": ("dshare += dh *", "dshare += share * dh *"),
    "up is gate": ("tl.load(inner + F,", "tl.load(inner,"),
    "shares are sorted": ("share_ptr + choice, mask", "share_ptr + row, mask"),
    "gradients of shares are sorted": ("dshare_ptr + choice,", "dshare_ptr + tl.arange(0, ROWS),"),
    "rows are left out": ("triton.cdiv(choices,", "(choices //"),
    "rows of others are summed": ("live = (choice < end)", "live = (choice < end + 1)"),
    "a step has the last one's tokens": ("choice += BLOCK_K\n", "choice += 0\n"),
    "the first step alone is summed": ("range(first, end, BLOCK_K)", "range(first, first + 1, 8)"),
    "both sides have a row a token": ("(choice if TOKENS_LEFT else token)", "token"),
    "an expert's gradient is the next one's": ("_ptr + expert.to(", "_ptr + (expert + 1).to("),
    "a choice is left out": ("rows.sum(-2)", "rows[..., 1:, :].sum(-2)"),
}


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_caught(change: tuple[str, str]) -> None:
    def once(edit: Edit | None) -> tuple[Results, Results]:
        return run(40, 3, 2, 40, 20, chosen=(1, 2), edit=edit)

    assert not holds(once, lambda text: text.replace(*change), CLOSE["float32"])


def test_what_is_whole_holds() -> None:
    """The run that is broken above, as it is."""
    assert differ(*run(40, 3, 2, 40, 20, chosen=(1, 2))) < CLOSE["float32"]
