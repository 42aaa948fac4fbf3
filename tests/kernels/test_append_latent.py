"""A query absorbed and a latent row kept in Triton: against the op in float64, between guards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from archsmith.compiler.ops.append import AppendLatent
from kernels.appending import CLOSE, appended
from kernels.checks import Edit, Results, differ, holds

KERNEL = "triton.append_latent"
OP = AppendLatent("kv", False, 1e-2)


@dataclass(frozen=True)
class Case:
    """Heads, the widths of their queries, of a latent and of what is turned, and where rows go."""

    heads: int
    nope: int
    latent: int
    rope: int
    gain: bool = True
    op: AppendLatent = OP
    slots: Sequence[Sequence[int]] = ((3,), (0,))

    def __str__(self) -> str:
        rows, tokens = len(self.slots), len(self.slots[0])
        return f"{self.heads} {self.nope}/{self.latent}/{self.rope} {rows}x{tokens} {self.gain}"

    def run(self, dtype: str, edit: Edit | None = None, **options: object) -> tuple[Results, ...]:
        types = [f"[B, T, {self.heads}, {width}]" for width in (self.nope, self.rope)]
        types += [f"[{self.heads}, {self.nope}, {self.latent}]"]
        types += [f"[B, T, {width}]" for width in (self.latent, self.rope)]
        types += ["int64[B, T]", *[f"float32[B, T, {self.rope // 2}]"] * 2]
        types += [f"[{self.latent}]"] * self.gain
        return appended(
            KERNEL, self.op, types, self.slots, length=7, dtype=dtype, edit=edit, **options
        )


MANY = [[row % 6] for row in range(128)]
CASES = [
    Case(1, 1, 1, 2),
    Case(1, 16, 32, 16, slots=((6,),)),
    Case(4, 20, 24, 6, gain=False),
    Case(2, 128, 512, 64, slots=((2,),)),  # DeepSeek's widths
    Case(16, 24, 40, 8),
    Case(3, 70, 100, 10, op=replace(OP, offset=1.0), slots=((0, 1, 2), (4, 5, 6))),
    # padding goes to the slot past the end
    Case(2, 8, 16, 4, slots=((2, 3, 6), (0, 6, 6), (6, 6, 6))),
    *(Case(2, 16, 24, 4, slots=MANY[:rows]) for rows in (15, 16, 17, 33)),
]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_append_latent(case: Case, dtype: str) -> None:
    """Pairs are neighbours in every other case, and in the other dtype in the rest."""
    neighbours = (CASES.index(case) + (dtype == "float16")) % 2 == 1
    case = replace(case, op=replace(case.op, interleaved=neighbours))
    assert differ(*case.run(dtype)) < CLOSE[dtype]


@pytest.mark.parametrize("slots", [MANY, [[0, 1, 2, 3, 4]] * 14], ids=["128", "14 of 5"])
def test_many_rows(slots: Sequence[Sequence[int]]) -> None:
    assert differ(*Case(1, 16, 24, 4, slots=slots).run("float16")) < CLOSE["float16"]


@pytest.mark.parametrize("target", ["a100", "b200", "mi300x"])
def test_other_targets(target: str) -> None:
    assert differ(*Case(3, 20, 72, 6).run("float16", target=target)) < CLOSE["float16"]


BROKEN = {
    "a sign": ("b * cos + a * sin", "b * cos - a * sin"),
    "rows are not normed": ("tl.sum(tl.sum(x * x, 1), 0) / L + EPS", "1.0"),
    "a gain has no offset": ("gain + OFFSET", "gain"),
    "all rows share a cache": ("slots_ptr + token", "slots_ptr + token % 2"),
    "all tokens go to one slot": ("tl.load(slots_ptr + token)", "0"),
    "keys turn like the first": ("sin_ptr + token * P,", "sin_ptr,"),
    "queries turn like the first": ("sin_ptr + row * P", "sin_ptr"),
    "latents are taken to be dense": ("token * latent_row", "token * L"),
    "keys are taken to be dense": ("token * key_row", "token * (2 * P)"),
    "heads have one weight": ("head.to(tl.int64) * weight_head", "0"),
    "a weight is taken to be dense": ("down * weight_in", "down * OUT"),
    "columns are read past the last": ("mask=live & (along < IN)", "mask=live"),
    "a weight is read past its last row": (
        "(down < IN) & (column < OUT)",
        "(column < OUT) & (down >= 0)",
    ),
    "columns are written past the last": ("mask=live & (column < OUT))", "mask=live)"),
    "rows are written past the last": ("live = row < rows\n", "live = row < rows + 1\n"),
    "a latent is written past its last": (
        "x.to(row_ptr.dtype.element_ty), mask=column < L)",
        "x.to(row_ptr.dtype.element_ty))",
    ),
    "the last columns are left out": ("(L + BLOCK_N - 1) // BLOCK_N", "L // BLOCK_N"),
    "heads are taken to be dense": ("head * nope_head", "head * N"),
    "turned heads are taken to be dense": ("head * rope_head", "head * (2 * P)"),
    "one token has what the next has": ("program < rows", "program < rows - 1"),
}


def broken(edit: Edit | None) -> tuple[Results, Results]:
    op = replace(OP, offset=1.0)
    case = Case(3, 20, 70, 6, op=op, slots=((2, 3), (0, 1), (4, 5)))
    parts = {"q_nope": (4, 26), "q_rope": (4, 9), "weight": (24, 80), "latent": 76, "k_rope": 8}
    found, wanted = case.run("float32", edit=edit, part_of=parts)
    return found, wanted


@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
def test_what_is_broken_is_caught(change: tuple[str, str]) -> None:
    assert not holds(broken, lambda text: text.replace(*change), CLOSE["float32"])


def test_what_is_not_broken_is_not() -> None:
    assert holds(broken, None, CLOSE["float32"])
