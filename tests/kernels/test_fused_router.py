"""The choice of experts in Triton: index for index what its op in float64 chooses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.machine.target import Target
from archsmith.compiler.ops.moe import NormRouter, Router
from kernels import checks
from kernels.checks import Edit, Results, differ, holds, interpreted

# Of sums in float32 in another order; an index that differs is off by far more. What is normed is
# rounded to its dtype on the way.
CLOSE = 2e-6
ROUNDED = {"float32": CLOSE, "float16": 2e-3}
COUNTS = ("top_k", "groups", "top_groups", "always")


def router(**rules: Any) -> Router:
    return Router(**{k: Dim.of(v) if k in COUNTS else v for k, v in rules.items()})


def run(
    rows: int,
    experts: int,
    width: int,
    rules: dict[str, Any],
    *,
    dtype: str = "float32",
    biased: bool = False,
    level: float = 0.0,
    draw: str = "normal",
    target: str | Target = "h200",
    wide: bool = False,
    batch: int = 1,
    normed: bool = False,
    edit: Edit | None = None,
) -> tuple[Results, Results]:
    """Logits are near `level`; of draws that are "whole", they are whole numbers, many of which
    are equal, and with "none" a row of x and an expert's weight are no numbers. Where they are
    `normed`, rows are a sum's halves."""
    draws = np.random.default_rng(3)
    shapes = (batch, rows // batch, width), (experts, width)
    if draw == "whole":
        x, weight = (draws.integers(-1, 2, shape).astype(float) for shape in shapes)
    else:
        x, weight = (draws.standard_normal(shape) for shape in shapes)
        weight /= 1.0 if wide else width**0.5
        x /= width**0.5 if wide else 1.0
    x[..., 0], weight[:, 0] = 1.0, level
    if draw == "none":
        x[0, 0, 1] = weight[experts // 2, 1] = np.nan
    # So low that what is chosen by is negative.
    values = {"x": x, "weight": weight, "bias": 0.3 * draws.standard_normal(experts) - 1.5}
    held, op = "bfloat16" if wide else dtype, router(**rules)
    types = [f"{held}[B, T, {width}]", f"{'float32' if wide else held}[{experts}, {width}]"]
    if normed:  # to logits of the same size
        values |= {
            "x": x * width**0.5 / 2,
            "residual": x * width**0.5 / 2,
        }
        values["gain"] = draws.uniform(0.5, 1.0, width) * width**-0.5 - 0.25
        op = NormRouter(**op.attributes(), eps=1e-2, offset=0.25)
        types = [types[0], types[0], f"{held}[{width}]", types[1]]
    return interpreted(
        "triton.norm_router" if normed else "triton.router",
        op,
        [*types, *([f"float32[{experts}]"] if biased else [])],
        Sizes(batch, rows // batch, rows // batch),
        dtype=dtype,
        values=values,
        part_of={"x": width + 5, "residual": width + 3} if normed else {"x": width + 5},
        target=target,
        edit=edit,
    )


# Rows, experts, width, and in how many groups: of no power of two, and with gaps among groups too.
SIZES = [(1, 8, 256, 4), (1, 60, 72, 6), (17, 64, 40, 8), (2, 128, 64, 4), (5, 160, 48, 8)]
SIZES += [(16, 256, 33, 8), (40, 16, 48, 16), (7, 60, 136, 5)]
LIMITED = {"groups": 0, "top_groups": 3}
RULES: dict[str, dict[str, Any]] = {
    "softmax": {"score": "softmax", "top_k": 1},
    "softmax, to one": {"score": "softmax", "top_k": 8, "normalize": True},
    "sigmoid": {"score": "sigmoid", "top_k": 6, "biased": True, "scale": 2.5},
    "sqrtsoftplus": {"score": "sqrtsoftplus", "top_k": 5, "biased": True, "normalize": True},
    "biased logits": {"score": "softmax", "top_k": 4, "normalize": True, "bias_of": "logits"},
    "with others": {"score": "softmax", "top_k": 3, "always": 2, "always_weight": 0.4},
    "groups": {"score": "softmax", "top_k": 4, **LIMITED},
    "groups, by two": {
        "score": "sigmoid",
        "top_k": 4,
        **LIMITED,
        "group_score": "top2_sum",
        "biased": True,
        "normalize": True,
        "scale": 2.5,
        "always": 1,
        "always_weight": 0.4,
    },
    "all groups": {"score": "sqrtsoftplus", "top_k": 2, **LIMITED, "top_groups": 99},
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_fused_router(size: tuple[int, int, int, int], rule: str) -> None:
    """Normed in every other case, and in one of both dtypes in turn."""
    rows, experts, width, groups = size
    rules = dict(RULES[rule])
    biased = rules.pop("biased", "bias_of" in rules)
    if "groups" in rules:
        rules |= {"groups": groups, "top_groups": min(rules["top_groups"], groups)}
    turn = SIZES.index(size) + list(RULES).index(rule)
    normed = turn % 2 == 0
    # Of many experts one may be as good as another, but for how what is normed is rounded.
    dtype = "float16" if turn // 2 % 2 and not (normed and experts > 200) else "float32"
    found = run(rows, experts, width, rules, dtype=dtype, biased=biased, normed=normed)
    assert differ(*found) < (ROUNDED[dtype] if normed else CLOSE)


ALONE = {"score": "softmax", "top_k": 1}


@pytest.mark.parametrize("size", [(1, 1, 40), (9, 1, 40), (16, 300, 24), (1, 1000, 24)], ids=str)
def test_one_expert_and_more_than_are_chosen_from_at_a_time(size: tuple[int, int, int]) -> None:
    rows, experts, width = size
    rules = PLAIN if experts > 8 else ALONE
    assert differ(*run(rows, experts, width, rules, normed=rows > 1)) < CLOSE


# A launch that takes no time is worth none of the reading that it saves.
EAGER = replace(checks.registry().targets["h200"], launch=0.0)


@pytest.mark.parametrize("rows", [1, 2, 16, 17])
@pytest.mark.parametrize("target", ["h200", EAGER, "mi300x"], ids=["h200", "eager", "mi300x"])
def test_rows_are_normed_in_the_same_launch_or_before(rows: int, target: str | Target) -> None:
    found = run(rows, 40, 88, {**PLAIN, "top_k": 3}, target=target, normed=True)
    assert differ(*found) < CLOSE


PROGRAM = "tile, split = tl.program_id(0), tl.program_id(1)"
TURNED = "tile, split = tl.num_programs(0) - 1 - tl.program_id(0), SPLITS - 1 - tl.program_id(1)"


@pytest.mark.parametrize("rows", [1, 5])
def test_bits_do_not_depend_on_who_is_last(rows: int) -> None:
    """The interpreter runs one program after another: here, the other way round."""
    there, back = (
        run(rows, 60, 200, PLAIN, normed=True, edit=edit)[0]
        for edit in (None, changed((PROGRAM, TURNED)))
    )
    for first, again in zip(there, back, strict=True):
        np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("target", ["a100", "b200", "mi300x"])
@pytest.mark.parametrize("rows", [1, 20, 140])
def test_other_targets_have_other_tiles(target: str, rows: int) -> None:
    found = run(rows, 24, 160, RULES["softmax"], dtype="float16", target=target)
    assert differ(*found) < CLOSE


PLAIN = {"score": "softmax", "top_k": 8, "normalize": True}


@pytest.mark.parametrize("groups", [1, 5])
@pytest.mark.parametrize("score", ["softmax", "sigmoid", "sqrtsoftplus"])
def test_of_equal_experts_the_first_is_chosen(score: str, groups: int) -> None:
    rules = {**PLAIN, "score": score, "groups": groups, "top_groups": 2 if groups > 1 else 1}
    found, wanted = run(20, 60, 8, rules, draw="whole")
    assert (np.diff(wanted[1]) == 0).any()  # there are equal ones
    assert differ(found, wanted) < CLOSE


@pytest.mark.parametrize("level", [-12.0, 100.0])
@pytest.mark.parametrize("score", ["softmax", "sqrtsoftplus"])
def test_scores_lose_nothing_far_from_zero(score: str, level: float) -> None:
    assert differ(*run(6, 60, 32, {"score": score, "top_k": 4}, level=level)) < 1e-5


@pytest.mark.parametrize("rule", ["softmax, to one", "sigmoid", "groups, by two"])
def test_what_is_no_number_chooses_experts_once(rule: str) -> None:
    rules = {k: v for k, v in RULES[rule].items() if k != "biased"}
    rules |= {"groups": 5} if "groups" in rules else {}
    with np.errstate(all="ignore"):
        index = run(9, 60, 40, rules, draw="none", biased=True)[0][0][0]
    chosen = index[:, : rules["top_k"]]
    assert ((chosen >= 0) & (chosen < 60)).all()
    assert all(len(set(row)) == len(row) for row in chosen)


def split(*pairs: tuple[str, str]) -> Edit:
    """An edit that makes factors float16, since the interpreter has no bfloat16."""
    return changed((".bfloat16", ".float16"), *pairs)


def test_a_weight_in_float32_is_multiplied_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(checks.DTYPES, "bfloat16", torch.float16)
    for rows in (1, 20):
        found = run(rows, 60, 64, PLAIN, wide=True, edit=split())
        assert differ(*found) < CLOSE
    one = split(("tl.static_range(3)", "tl.static_range(1)"))
    assert not differ(*run(20, 60, 64, PLAIN, wide=True, edit=one)) < CLOSE


def test_a_batch_is_rows_and_the_same_call_gives_the_same_bits() -> None:
    found, wanted = run(24, 12, 80, PLAIN, batch=3)
    assert differ(found, wanted) < CLOSE
    for first, again in zip(found, run(24, 12, 80, PLAIN, batch=3)[0], strict=True):
        np.testing.assert_array_equal(first, again)


def changed(*pairs: tuple[str, str]) -> Edit:
    """An edit of whichever files hold it."""

    def edit(text: str) -> str:
        for old, new in pairs:
            text = text.replace(old, new)
        return text

    return edit


def limited(edit: Edit | None) -> tuple[Results, Results]:
    """By two launches, with every rule there is."""
    rules = {k: v for k, v in RULES["groups, by two"].items() if k != "biased"}
    return run(21, 60, 100, {**rules, "groups": 6, "top_groups": 2}, biased=True, edit=edit)


def equal(edit: Edit | None) -> tuple[Results, Results]:
    """By one launch, with experts that are equally good, and large logits."""
    return run(5, 14, 20, {**PLAIN, "top_k": 3}, draw="whole", level=100.0, edit=edit)


def small(edit: Edit | None) -> tuple[Results, Results]:
    return run(5, 14, 20, {"score": "sqrtsoftplus", "top_k": 3}, level=-12.0, edit=edit)


def few(edit: Edit | None) -> tuple[Results, Results]:
    """By one launch, normed in it, whose programs share out both axes of the weight."""
    return run(5, 60, 200, {**PLAIN, "bias_of": "logits"}, normed=True, biased=True, edit=edit)


THERE = "(column % SLOTS < E // GROUPS) & (column // SLOTS < GROUPS)"
BROKEN = {
    "a part is left out": (limited, "static_range(SPLITS)", "static_range(1, SPLITS)"),
    "parts are written over each other": (limited, "tl.program_id(2) * part_size + at", "at"),
    "no part ends": (limited, "tl.minimum(split * share + share, D)", "D"),
    "gaps are chosen": (limited, f"there = {THERE}", "there = column >= 0"),
    "experts have no gaps": (limited, "column // SLOTS * (E // GROUPS) + column % SLOTS", "column"),
    "rows are as far apart as they are wide": (limited, "row * x_row", "row * D"),
    "all columns are the first ones": (limited, "tl.program_id(1) * BLOCK_N + ", ""),
    "the bias is left out": (limited, "choice += tl.load", "choice += 0.0 * tl.load"),
    "the bias is weighted": (limited, "key == best, score, 0.0", "key == best, choice, 0.0"),
    "negative numbers are turned around": (limited, "(bits >> 31) & 0x7FFFFFFF", "0"),
    "a group is as good as its best": (limited, " | (grouped == other)", ""),
    "a group too few is kept": (limited, "range(TOP_GROUPS)", "range(TOP_GROUPS - 1)"),
    "one expert is chosen": (limited, "key = tl.where(key == best, least, key)", "key = key"),
    "others weigh one": (limited, "SCALE, ALWAYS_WEIGHT)", "SCALE, 1.0)"),
    "results are spaced like tiles": (limited, "* (TOP_K + ALWAYS) + slot", "* K + slot"),
    "rows past the last are written": (limited, "mask = live & (slot", "mask = (slot"),
    "of equal ones the last is chosen": (equal, "0x7FFFFFFF - column", "column"),
    "the largest is not taken off": (equal, "logits - tl.max(logits, 1, keep_dims=True)", "logits"),
    "what is small is rounded away": (small, "tl.where(more > 1.0,", "tl.where(more < 0.0, 0.0 *"),
    "the last is not awaited": (few, "SPLITS - 1:", "SPLITS - 2:"),
    "the counter stays": (few, "tl.store(arrived_ptr, 0)", "pass"),
    "a split is left out": (few, "static_range(SPLITS)", "static_range(1, SPLITS)"),
    "what comes is what was": (few, "router_ptr + k + BLOCK_K, mask", "router_ptr + k, mask"),
    "all columns are the first": (few, "column = tile * BLOCK_N +", "column ="),
    "nothing is stored of what is normed": (few, "where(tile == 0,", "where(tile == 9,"),
    "the residual is left out": (few, " + residual.to(tl.float32)", ""),
    "residuals are as far apart as they are wide": (few, "* residual_row", "* D"),
    "squares are not added up": (few, "squares += total", "squares = total"),
    "rows are not normed": (few, "* rstd", "* 1.0"),
    "a gain has no offset": (few, "(gain + OFFSET)", "gain"),
    "logits have no bias": (few, "logits += tl.load(bias", "logits += 0.0 * tl.load(bias"),
}


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_caught(broken: tuple[Any, str, str]) -> None:
    once, old, new = broken
    assert not holds(once, changed((old, new)), CLOSE)


def test_what_is_whole_holds() -> None:
    """The runs that are broken above, as they are."""
    assert all(differ(*once(None)) < CLOSE for once in (limited, equal, small, few))
