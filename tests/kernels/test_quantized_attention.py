"""Attention to rows in float8 in Triton: against its op in float64, for contexts of any length."""

from __future__ import annotations

import re
from itertools import cycle

import pytest
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.quantized_attention import QuantizedAttend
from archsmith.compiler.plugins import Registry
from kernels.checks import Edit, Results, differ, holds
from kernels.quantized_attention_cases import Case

# Of the weights', the rows' and the result's rounding to the stored dtype, and of sums in another
# order.
CLOSE = {"float32": 2e-6, "float16": 3e-3}
CASES = [
    *(Case([n], 2, 32, 16) for n in (1, 17, 33, 64, 90)),
    # rows of unlike lengths, and slots past the longest
    Case([1, 65], 4, 64, 16),
    Case([70, 16, 17], 16, 32, 8, slots=90),
    # every width that a tile has to pad, and more heads than a tile has rows
    Case([40], 3, 24, 7),
    Case([40, 9], 20, 40, 24),
    Case([30], 70, 16, 16),
    # a last block that is a part of one, and rows that are less than a block
    Case([33], 2, 100, 12, block=32),
    Case([33], 2, 24, 12, block=128),
    Case([33], 2, 256, 32, block=128),
    # several new tokens
    Case([70, 5], 4, 32, 16, tokens=5),
    Case([40], 3, 32, 16, tokens=8),
]
# Each in one of the dtypes; those of the same sizes of heads have one file.
MORE = [
    *(Case([n], 1, 16, 8) for n in (1, 2, 15, 16, 31, 32, 63, 65, 127, 129)),
    *(Case([n], 16, 16, 8) for n in (1, 63, 64, 65, 128)),
    *(Case([n], 20, 16, 8) for n in (1, 33, 64, 65)),
    *(Case([n], 128, 16, 8) for n in (1, 63, 65)),
    Case([4097], 1, 16, 8),
    Case([129, 1], 1, 16, 8),
    Case([1, 64], 20, 16, 8),
    Case([5, 70], 1, 16, 8, slots=71),
    # many rows
    *(Case([1] * (rows - 1) + [33], 1, 16, 8) for rows in (3, 7, 16, 20, 128)),
    Case([1] * 8, 3, 16, 8, slots=17),
    # several new tokens, of which the first of a row may be
    *(Case([n, 20], 16, 16, 8, tokens=t) for n, t in ((2, 2), (65, 3), (40, 8))),
]


def short(value: object) -> str:
    return str(value)[:24]


def shared_out(text: str) -> str:
    """The text with splits of a block each: long contexts take an interpreter too much time."""
    return re.sub(r"(?m)^LEAST = \d+", "LEAST = 0", text)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_quantized_attention(case: Case) -> None:
    assert differ(*case.run("float16")) < CLOSE["float16"]


@pytest.mark.parametrize(("case", "dtype"), list(zip(MORE, cycle(CLOSE), strict=False)), ids=short)
def test_more_contexts_and_heads(case: Case, dtype: str) -> None:
    assert differ(*case.run(dtype)) < CLOSE[dtype]


@pytest.mark.parametrize(
    "case",
    [
        Case([64], 2, 32, 16),
        Case([150, 33, 1], 8, 32, 24),  # some rows have fewer blocks than there are splits
        Case([70, 40], 16, 40, 8, slots=80, tokens=3),  # of two tiles
        Case([66], 4, 32, 16, tokens=8),  # of which some see nothing of the last split
    ],
    ids=str,
)
def test_a_context_that_is_shared_out(case: Case) -> None:
    assert differ(*case.run("float16", edit=shared_out)) < CLOSE["float16"]


@pytest.mark.parametrize("target", ["a100", "mi300x"])
def test_tiles_of_other_targets(target: str) -> None:
    case = Case([150, 90], 4, 48, 32)
    assert differ(*case.run("float16", target=target, edit=shared_out)) < CLOSE["float16"]


def test_rows_may_be_parts_of_wider_ones() -> None:
    assert differ(*Case([65, 30], 4, 24, 16).run("float16", part_of=40)) < CLOSE["float16"]


@pytest.mark.parametrize(
    ("op", "columns", "message"),
    [
        (QuantizedAttend(-1.0), 512, "turns the largest score into the least"),
        (QuantizedAttend(1.0), 1024, "leave no room for a block of slots"),
    ],
)
def test_what_is_refused(
    registry: Registry, op: QuantizedAttend, columns: int, message: str
) -> None:
    types = (
        *(f"bfloat16[B, T, 16, {columns + 64}]", f"float8_e4m3fn[B, S, {columns}]"),
        *(f"float32[B, S, {columns // 128}]", "bfloat16[B, S, 64]", "int64[B, T]"),
    )
    kernel = registry.kernels["triton.quantized_attention"]()
    operands = tuple(map(TensorType.parse, types))
    refusal = kernel.refuses(op, operands, registry.targets["h200"])
    assert refusal is not None
    assert message in refusal


BROKEN = {
    "a query sees the slot behind its own": (" <= position[", " <= 1 + position["),
    "a query does not see its own slot": (" <= position[", " < position["),
    "the last slot is not read": ("tl.max(position) + 1", "tl.max(position)"),
    "a query sees past the last slot": (".to(tl.int32), slots - 1)", ".to(tl.int32), 2 * slots)"),
    "a split goes on into the next": ("tl.minimum(start + each, seen)", "seen"),
    "a split ends past its row": ("tl.minimum(start + each, seen)", "start + each"),
    "scales past the end are read": ("live[None, :] & (part", "(part"),
    "columns past a row's last are read": ("if FIRST + COLUMNS > WIDTH:", "if False:"),
    "columns past a query's last are read": ("mask=others < R", "mask=others < REST"),
    "columns past a result's last are written": (
        "[None, :, None] & (column < N)\n",
        "[None, :, None]\n",
    ),
    "rows past the last are another's": ("tl.minimum(above + row, queries - 1)", "above + row"),
    "results are not rescaled": ("latent, acc * shrink[None, :, None]", "latent, acc"),
    "the rest is left out": ("score += tl.sum", "score = tl.sum"),
    "scores are not in units of scales": ('ieee") * units, 0)', 'ieee"), 0)'),
    "values are not in units of scales": ("* (units * GROWN)", "* (units * 0 + 1)"),
    "all blocks have the first one's scale": ("part * PART // BLOCK\n", "part * 0\n"),
    "all rows have the first one's numbers": ("batch * numbers_row", "0 * numbers_row"),
    "all tokens have the first one's position": ("+ query // H)", "+ query // queries)"),
    "a block of numbers is passed over": ("BLOCK_N * numbers_slot", "2 * BLOCK_N * numbers_slot"),
    "a split's weight is left out": ("top + tl.log2(total)", "top"),
    "no split combines": ("== used - 1", "== used"),
    "counters stay as they are": ("arrived_ptr + tile, 0)", "arrived_ptr + tile, used)"),
    "the last split is not combined": ("range(0, used,", "range(0, used - 1,"),
    "combined results are not rescaled": ("acc * shrink[:, None] + weight", "acc + weight"),
    "counters are shared by rows": ("arrived_ptr + tile", "arrived_ptr + 0 * tile"),
    "the bits of a number lose its sign": ("((numbers & 128) << 8) | ", ""),
    "the bits of a number are those of another": ("SHRUNK = 256.0", "SHRUNK = 128.0"),
}

SMALL = Case([20, 36], 5, 24, 7, slots=34, tokens=2)


def in_steps(text: str) -> str:
    """The text with splits of a small block or two each."""
    few = re.sub(r'"BLOCK_N": \d+', '"BLOCK_N": 16', text).replace("ratio = 4", "ratio = 0")
    return shared_out(few)


def run(edit: Edit | None, target: str) -> tuple[Results, Results]:
    return SMALL.run("float32", part_of=50, edit=edit, target=target)


@pytest.mark.parametrize("target", ["a100", "h200"])
def test_what_is_to_be_broken_holds(target: str) -> None:
    assert differ(*run(in_steps, target)) < CLOSE["float32"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # of what is not a number
@pytest.mark.parametrize("key", BROKEN)
def test_what_is_broken_is_caught(key: str) -> None:
    text, other = BROKEN[key]
    target = "a100" if "bits" in key else "h200"  # which makes float8 wide by an instruction
    met = []

    def broken(whole: str) -> str:
        met.append(text in whole)  # of the kernel, or of its part
        return in_steps(whole).replace(text, other)

    assert not holds(lambda edit: run(edit, target), broken, CLOSE["float32"])
    assert any(met)


def test_that_the_last_split_is_not_waited_for_is_caught() -> None:
    """Of three: of two, which run one after the other here, the second would make it good again."""

    def run(edit: Edit | None) -> tuple[Results, Results]:
        return Case([84], 5, 24, 7, slots=86).run("float32", part_of=50, edit=edit, target="h200")

    def broken(text: str) -> str:
        return in_steps(text).replace("== used - 1", "== used - 2")

    assert holds(run, in_steps, CLOSE["float32"])
    assert not holds(run, broken, CLOSE["float32"])
