"""Heads normed, turned and kept in Triton: against the op in float64, between guards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from archsmith.compiler.ops.append import AppendHeads
from kernels.appending import CLOSE, appended
from kernels.checks import Edit, Results, differ, holds

KERNEL = "triton.append_heads"
PLAIN = AppendHeads("k", "v", False)
NORMED = replace(PLAIN, eps=1e-2)
OFFSET = replace(NORMED, offset=1.0)


@dataclass(frozen=True)
class Case:
    """Heads of queries and of keys, their widths, the pairs that are turned, and where rows go."""

    heads: int
    groups: int
    key: int
    value: int
    pairs: int
    op: AppendHeads = PLAIN
    gains: bool = True
    slots: Sequence[Sequence[int]] = ((3,), (0,))

    def __str__(self) -> str:
        rows, tokens = len(self.slots), len(self.slots[0])
        sizes = f"{self.heads}/{self.groups} {self.key}/{self.value}/{self.pairs}"
        return f"{sizes} {rows}x{tokens} {self.op.eps} {self.op.offset}"

    def run(self, dtype: str, edit: Edit | None = None, **options: object) -> tuple[Results, ...]:
        shapes = (self.heads, self.key), (self.groups, self.key), (self.groups, self.value)
        types = [f"[B, T, {heads}, {width}]" for heads, width in shapes]
        types += ["int64[B, T]", *[f"float32[B, T, {self.pairs}]"] * 2]
        types += [f"[{self.key}]"] * (2 * (self.op.eps is not None and self.gains))
        return appended(
            KERNEL, self.op, types, self.slots, length=7, dtype=dtype, edit=edit, **options
        )


CASES = [
    Case(1, 1, 2, 2, 1),
    Case(1, 1, 128, 128, 64, NORMED, slots=((6,),)),
    Case(4, 2, 64, 64, 32, OFFSET),
    Case(4, 4, 24, 7, 12, NORMED, gains=False),
    Case(16, 16, 16, 40, 8, slots=((5,),)),
    Case(16, 1, 80, 80, 40, NORMED),
    Case(40, 8, 128, 128, 64, slots=((2,),)),  # Qwen3's and Llama's width
    Case(32, 4, 128, 128, 64, NORMED, slots=((2,),)),
    Case(7, 7, 12, 12, 6, OFFSET, slots=((0, 1, 2), (4, 5, 6))),
    # of a head, a part is turned
    Case(6, 2, 128, 128, 32, slots=((1,), (4,))),
    Case(6, 3, 20, 9, 3, NORMED),
    # padding goes to the slot past the end, and rows may be full of it
    Case(3, 1, 8, 8, 4, slots=((2, 3, 6), (0, 6, 6), (6, 6, 6))),
    Case(2, 2, 8, 8, 2, slots=[[row % 5] for row in range(17)]),
]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_append_heads(case: Case, dtype: str) -> None:
    """Pairs are neighbours in every other case, and in the other dtype in the rest."""
    neighbours = (CASES.index(case) + (dtype == "float16")) % 2 == 1
    case = replace(case, op=replace(case.op, interleaved=neighbours))
    assert differ(*case.run(dtype)) < CLOSE[dtype]


def test_many_rows() -> None:
    case = Case(1, 1, 8, 8, 4, NORMED, slots=[[row % 6] for row in range(65)])
    assert differ(*case.run("float16")) < CLOSE["float16"]


@pytest.mark.parametrize("target", ["a100", "b200", "mi300x"])
def test_other_targets(target: str) -> None:
    assert differ(*Case(6, 3, 20, 9, 10, NORMED).run("float16", target=target)) < CLOSE["float16"]


def test_operands_may_be_parts_of_one_row() -> None:
    case = Case(6, 2, 8, 5, 4, NORMED, slots=((2, 3), (0, 1), (4, 5)))
    parts = {"q": (9, 11), "k": (2, 12), "v": (4, 3, 6)}
    assert differ(*case.run("float32", part_of=parts)) < CLOSE["float32"]


BROKEN = {
    "a sign": ("a * cos - b * sin", "a * cos + b * sin"),
    "queries of one head are all": (
        "(token * H + head) * K",
        "(token * H) * K + 0 * head",
    ),
    "all tokens go to the first slot": ("tl.load(slots_ptr + token)", "0"),
    "all rows share a cache": ("slots_ptr + token", "slots_ptr + at"),
    "tokens are taken to be rows": ("token // tokens, ", "token, "),
    "all turn like the first": ("cos_ptr + token * P", "cos_ptr"),
    "keys have the gains of queries": ("y, k_weight_ptr,", "y, q_weight_ptr,"),
    "a row is normed by half of it": (
        "tl.sum(a * a, 1, keep_dims=True) + tl.sum(b * b, 1, keep_dims=True)",
        "tl.sum(a * a, 1, keep_dims=True) * 2",
    ),
    "what is not turned is not normed": ("rest *= rstd", "rest *= 1.0"),
    "what is not turned has no gain": ("rest *= weight + OFFSET", "rest *= 1.0"),
    "what is not turned does not count": (
        "square += tl.sum(rest * rest, 1, keep_dims=True)",
        "square += 0.0",
    ),
    "heads past the last are written": ("head < G, K", "head < G + 1, K"),
    "queries past the last are written": ("head < H, K", "head < H + 1, K"),
    "values past a row's last are written": (" & (column < V)", ""),
    "heads of queries are taken to be dense": ("head * q_head", "head * K"),
    "heads of values are taken to be dense": ("head * v_head", "head * V"),
    "tokens are taken to be dense": ("at * k_token", "at * (G * K)"),
    "rows are taken to be dense": ("batch * v_batch", "batch * (tokens * G * V)"),
}


def broken(edit: Edit | None) -> tuple[Results, Results]:
    case = Case(6, 3, 10, 5, 4, NORMED, slots=((2, 3), (0, 1), (4, 5)))
    parts = {"q": (9, 11), "k": (3, 4, 12), "v": (3, 4, 6)}
    found, wanted = case.run("float32", edit=edit, part_of=parts)
    return found, wanted


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_caught(change: tuple[str, str]) -> None:
    assert not holds(broken, lambda text: text.replace(*change), CLOSE["float32"])


def test_what_is_not_broken_is_not() -> None:
    assert holds(broken, None, CLOSE["float32"])
