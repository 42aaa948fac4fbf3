"""The loss of a linear layer in Triton: against its op in float64, and PyTorch's gradients."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.loss import LinearCrossEntropy
from kernels.checks import Edit, Results, differ, emitted, gradients, holds, interpreted, registry

# Of sums in float32 in another order; of gradients that are rounded twice to the stored dtype.
CLOSE = {"float32": 5e-6, "float16": 5e-6}
GRADIENTS = {"float32": 5e-6, "float16": 2e-3}
OPS = {
    "plain": LinearCrossEntropy(),
    "capped": LinearCrossEntropy(softcap=1.5),
    "scaled": LinearCrossEntropy(scale=0.3),
    "both": LinearCrossEntropy(scale=2.0, softcap=3.0),
}
# Rows, words, width: tails of every kind of tile, of one and of several.
SHAPES = [
    (1, 1, 16),
    (1, 7, 16),
    (2, 64, 16),
    (3, 65, 24),
    (17, 128, 16),
    (64, 63, 40),
    (65, 130, 16),
    (70, 300, 33),
    (129, 257, 32),
    (130, 600, 64),
    (5, 513, 72),
]
MORE = [  # each in one of the dtypes
    *((rows, words, 8) for rows in (1, 2, 15, 31, 33) for words in (2, 63, 65, 127, 129)),
    *((rows, words, 17) for rows in (16, 32, 63, 66) for words in (1, 31, 64)),
    *((127, words, 16) for words in (3, 128)),
]


def operands(rows: int, words: int, width: int) -> tuple[list[str], dict[str, np.ndarray]]:
    """Types and values; every third target does not count, nor do any of one row alone."""
    draws = np.random.default_rng(rows)
    targets = draws.integers(0, words, (1, rows))
    targets[:, -1] = words - 1
    targets[:, 1::3] = -100
    values = {"targets": targets, "weight": draws.standard_normal((words, width)) / width**0.5}
    return [f"[B, T, {width}]", f"[{words}, {width}]", "int64[B, T]"], values


def of_parts(columns: int, edit: Edit | None = None) -> Edit:
    """Let the gradients of so many columns be in memory at a time, rounded up to a tile."""

    def change(text: str) -> str:
        text = text.replace("COLUMNS = 8192", f"COLUMNS = {columns}")
        return edit(text) if edit else text

    return change


def run(
    rows: int,
    words: int,
    width: int,
    op: LinearCrossEntropy = OPS["plain"],
    dtype: str = "float32",
    edit: Edit | None = None,
    **options: Any,
) -> tuple[Results, Results]:
    types, values = operands(rows, words, width)
    sizes = Sizes(1, rows, rows)
    kernel = "triton.linear_cross_entropy"

    def few(text: str) -> str:
        """Combine two parts of the vocabulary at a time."""
        text = text.replace("BLOCK_P=64", "BLOCK_P=2")
        return edit(text) if edit else text

    options = {"values": values, "phases": ("train",), **options}
    return interpreted(kernel, op, types, sizes, dtype=dtype, edit=few, **options)


def differentiated(
    rows: int,
    words: int,
    width: int,
    op: LinearCrossEntropy = OPS["plain"],
    dtype: str = "float32",
    columns: int = 256,
    edit: Edit | None = None,
    **options: Any,
) -> tuple[Results, Results]:
    types, values = operands(rows, words, width)
    narrow = np.dtype(dtype).type
    values["x"] = np.random.default_rng(7).standard_normal((1, rows, width)).astype(narrow)
    values["weight"] = values["weight"].astype(narrow)
    _, values["result_1"] = op.reference(
        values["x"].astype(float), values["weight"].astype(float), values["targets"]
    )
    return gradients(
        "triton.linear_cross_entropy_gradients",
        op,
        types,
        Sizes(1, rows, rows),
        of=("x", "weight"),
        dtype=dtype,
        values=values,
        edit=of_parts(columns, edit),
        **options,
    )


@pytest.mark.parametrize("dtype", CLOSE)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_losses(shape: tuple[int, ...], dtype: str) -> None:
    assert differ(*run(*shape, dtype=dtype)) < CLOSE[dtype]


@pytest.mark.parametrize("dtype", GRADIENTS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients(shape: tuple[int, ...], dtype: str) -> None:
    assert differ(*differentiated(*shape, dtype=dtype)) < GRADIENTS[dtype]


@pytest.mark.parametrize(("shape", "dtype"), list(zip(MORE, cycle(CLOSE), strict=False)), ids=str)
def test_more_rows_and_words(shape: tuple[int, ...], dtype: str) -> None:
    assert differ(*run(*shape, dtype=dtype)) < CLOSE[dtype]
    assert differ(*differentiated(*shape, dtype=dtype)) < GRADIENTS[dtype]


@pytest.mark.parametrize("op", OPS.values(), ids=OPS)
@pytest.mark.parametrize("target", ["a100", "h200", "mi300x"])
def test_logits_that_are_scaled_and_capped(op: LinearCrossEntropy, target: str) -> None:
    for dtype in CLOSE:
        assert differ(*run(20, 300, 48, op, dtype, target=target)) < CLOSE[dtype]
    found = differentiated(20, 300, 48, op, "float16", target=target)
    assert differ(*found) < GRADIENTS["float16"]


@pytest.mark.parametrize("unwanted", ["x", "weight"])
def test_only_gradients_that_are_wanted(unwanted: str) -> None:
    assert differ(*differentiated(9, 140, 16, unwanted=(unwanted,))) < GRADIENTS["float32"]


def test_rows_that_are_parts_of_wider_ones() -> None:
    part_of = {"x": 50, "weight": 45}
    assert differ(*run(9, 70, 40, dtype="float16", part_of=part_of)) < CLOSE["float16"]
    found = differentiated(9, 70, 40, dtype="float16", part_of=part_of)
    assert differ(*found) < GRADIENTS["float16"]


def test_logits_far_from_zero() -> None:
    """Each exponential would be infinite, or nothing, but for the largest logit."""
    types, values = operands(9, 300, 32)
    values["weight"] = 300 * values["weight"]
    sizes = Sizes(1, 9, 9)
    pair = interpreted(
        "triton.linear_cross_entropy", OPS["plain"], types, sizes, dtype="float32", values=values
    )
    assert np.abs(pair[1][1]).max() > 500
    assert differ(*pair) < CLOSE["float32"]


def test_a_target_outside_of_the_vocabulary_is_no_number() -> None:
    types, values = operands(5, 70, 16)
    values["targets"][:] = [[70, -1, -100, 69, 2**40]]
    op = LinearCrossEntropy()
    kernel = registry().kernels["triton.linear_cross_entropy"]()
    whole = tuple(TensorType.parse(t if t[0] != "[" else f"float32{t}") for t in types)
    module = emitted(kernel, {op: whole}, "h200")
    x, weight = torch.randn(1, 5, 16), torch.from_numpy(values["weight"]).float()
    targets = torch.from_numpy(values["targets"])
    for function in (module.fused_linear_cross_entropy.launch, module.linear_cross_entropy):
        with np.errstate(all="ignore"):
            losses, lse = function(x, weight, targets)
        assert losses.isnan().tolist() == [[True, True, False, False, True]]
        assert losses[0, 2] == 0
        torch.testing.assert_close(lse, F.linear(x, weight).logsumexp(-1))


def test_they_are_operators() -> None:
    """Their shapes are known without computing, and which gradients they have."""
    op = LinearCrossEntropy()
    kernel = registry().kernels["triton.linear_cross_entropy_gradients"]()
    types = "float32[B, T, 16]", "float32[70, 16]", "int64[B, T]"
    module = emitted(kernel, {op: tuple(map(TensorType.parse, types))}, "h200")
    loss = module.fused_linear_cross_entropy.registered
    gradient = module.fused_linear_cross_entropy_gradients.registered
    x, weight, row = torch.randn(2, 3, 16), torch.randn(70, 16), torch.randn(2, 3)
    targets = torch.randint(70, (2, 3))
    faked = ("test_schema", "test_faketensor")
    torch.library.opcheck(loss, (x, weight, targets, 0.5, 2.0), test_utils=faked)
    for wanted in ([True, True], [True, False], [False, True]):
        given = x, weight, targets, 1.0, None, row, row, row, wanted
        torch.library.opcheck(gradient, given, test_utils=faked)
    weight.requires_grad_()  # x is frozen, and of two results one is used
    losses, lse = loss(x, weight, targets)
    (found,) = torch.autograd.grad(losses.sum(), weight)
    logits = F.linear(x, weight).flatten(0, 1)
    plain = F.cross_entropy(logits, targets.flatten(), reduction="sum")
    torch.testing.assert_close(found, *torch.autograd.grad(plain, weight))
    assert lse.shape == targets.shape


def test_the_same_call_gives_the_same_bits() -> None:
    for call in (run, differentiated):
        first, again = (call(70, 300, 33, dtype="float16")[0] for _ in range(2))
        for one, other in zip(first, again, strict=True):
            np.testing.assert_array_equal(one, other)


def changed(old: str, new: str) -> Edit:
    def edit(text: str) -> str:
        return text.replace(old, new)

    return edit


BROKEN = {
    "columns past the last count": ("if V % BLOCK_N != 0:", "if False:"),
    "sums are of no largest logit": ("logits - largest[:, None]", "logits"),
    "parts are as far apart as tiles": ("part.to(tl.int64) * rows + row\n", "part * 9 + row\n"),
    "the target is the next word": ("target[:, None], logits", "target[:, None] + 1, logits"),
    "later parts have the target too": ("(target >= column) & ", "(target >= 0) | "),
    "rows past the last are written": ("largest, mask=row < rows", "largest, mask=row >= 0"),
    "the last part is left out": ("range(0, PARTS, BLOCK_P)", "range(0, PARTS - 1, BLOCK_P)"),
    "later parts are not scaled": ("sums * tl.exp(each - new[None, :])", "sums"),
    "earlier parts are not scaled": ("total * tl.exp(largest - new)", "total"),
    "what does not count counts": ("target == IGNORED, 0.0", "target == IGNORED, 1.0"),
    "the loss has no target": ("lse - picked", "lse"),
    "a row ends with its tile": ("mask=k < D", "mask=k < D + 1"),
    "a step is left out": ("range(0, D, BLOCK_K)", "range(BLOCK_K, D, BLOCK_K)"),
    "logits are not scaled": ("logits *= SCALE", "logits *= 1"),
    "the cap is twice as high": ("* (2 / SOFTCAP)", "* (1 / SOFTCAP)"),
}  # fmt: skip
BROKEN_GRADIENTS = {
    "shares are not normed": ("tl.exp(logits - lse[:, None])", "tl.exp(logits)"),
    "the target has no gradient": ("dloss[:, None], 0.0)", "0.0, 0.0)"),
    "the target is the next word": ("column == target", "column == 1 + target"),
    "what does not count counts": ("(row < rows) & (target != IGNORED)", "(row < rows)"),
    "the log-sum-exp has no gradient": ("dloss + tl.load(dlse_ptr", "dloss + 0 * tl.load(dlse_ptr"),
    "the cap is flat": ("1 - (logits / SOFTCAP)", "1 - 0 * (logits / SOFTCAP)"),
    "gradients are not scaled": ("(d * SCALE)", "d"),
    "rows past the last are written": ("(row < rows)[:, None] &", "(row >= 0)[:, None] &"),
    "each part has the first's columns": ("first + part * BLOCK_N", "part * BLOCK_N"),
    "the gradient of x is the last part's": ("dx += part @", "dx = part @"),
    "all parts are the first": ("out=dweight[first:last]", "out=dweight[: last - first]"),
    "the last part is left out": ("range(0, V, columns)", "range(0, V - columns, columns)"),
    "rows of parts overlap": ("columns,\n            SCALE", "columns - 1,\n            SCALE"),
}  # fmt: skip


def once(edit: Edit | None) -> tuple[Results, Results]:
    return run(70, 300, 40, OPS["both"], edit=edit)


def once_differentiated(edit: Edit | None) -> tuple[Results, Results]:
    return differentiated(70, 300, 40, OPS["both"], columns=128, edit=edit)


@pytest.mark.filterwarnings("ignore:All-NaN")
@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_caught(change: tuple[str, str]) -> None:
    assert not holds(once, changed(*change), CLOSE["float32"])


@pytest.mark.parametrize("change", BROKEN_GRADIENTS.values(), ids=BROKEN_GRADIENTS)
def test_what_is_broken_of_gradients_is_caught(change: tuple[str, str]) -> None:
    assert not holds(once_differentiated, changed(*change), GRADIENTS["float32"])


def test_what_is_whole_holds() -> None:
    """The runs that are broken above, as they are."""
    assert holds(once, None, CLOSE["float32"])
    assert holds(once_differentiated, None, GRADIENTS["float32"])
