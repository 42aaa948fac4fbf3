"""Attention to pages in Triton: against its op in float64, whoever has which page."""

from __future__ import annotations

import pytest
from kernels.attention_cases import CLOSE, Case
from kernels.checks import Edit, Results, Run, differ, holds
from kernels.quantized_attention_cases import Case as Quantized
from kernels.test_decode_attention import KERNEL, shared_out

# Around the ends of pages; heads of their own, in groups, and one latent for all.
CASES = [
    Case([1, 63, 64, 65, 300], 4, 2, 16, 24, page=64),
    Case([16, 130, 31], 8, 1, 40, 32, page=16, in_key=True),
    Case([70, 128], 20, 1, 24, 8, page=32, in_key=True, tokens=3),
    Case([129, 8], 6, 2, 24, 16, page=64, tokens=5, slots=200, sinks=True),
    Case([130, 20], 4, 2, 16, 16, window=33, page=16, tokens=3),
    # of a package with pages, a ring
    Case([70, 24], 4, 2, 16, 16, window=20, ring=23),
]
QUANTIZED = [
    Quantized([1, 63, 64, 65, 300], 4, 48, 8, page=64),
    Quantized([40, 129], 20, 64, 16, block=32, tokens=2, page=32, slots=140),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_pages_in_no_order(case: Case) -> None:
    """By programs that share out a context in one dtype, and by one in the other."""
    assert differ(*case.run(KERNEL, "float32", edit=shared_out)) < CLOSE["float32"]
    assert differ(*case.run(KERNEL, "float16")) < CLOSE["float16"]


def test_a_second_launch_combines() -> None:
    found = CASES[0].run(KERNEL, "float16", target="mi300x", edit=shared_out)
    assert differ(*found) < CLOSE["float16"]


@pytest.mark.parametrize("case", QUANTIZED, ids=str)
def test_rows_in_float8(case: Quantized) -> None:
    assert differ(*case.run("float32")) < 1e-5
    assert differ(*case.run("float16", edit=shared_out)) < 2e-3


BROKEN = {
    "the table of the first row": ("table_ptr += batch * table_row", "table_ptr += 0 * table_row"),
    "a page is another's": ("page = page.to(tl.int64)", "page = page.to(tl.int64) * 0 + 1"),
    "a page begins a slot late": ("place %= PAGE", "place = (place + 1) % PAGE"),
    "a page is one block": ("place %= PAGE", "place *= 0"),
    "a page goes on for a block": ("following // PAGE", "n // PAGE"),
    "a page ends a slot late": ("start // PAGE", "start // (PAGE + 1)"),
}


def heads(edit: Edit | None) -> tuple[Results, Results]:
    return Case([40, 130], 2, 1, 16, 16, page=64).run(KERNEL, "float32", edit=edit)


def latent(edit: Edit | None) -> tuple[Results, Results]:
    return Quantized([40, 130], 2, 16, 8, page=64).run("float32", edit=edit)


@pytest.mark.filterwarnings("ignore:All-NaN")  # of a page that is nobody's
@pytest.mark.parametrize("change", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("run", [heads, latent])
def test_what_is_broken_is_caught(run: Run, change: tuple[str, str]) -> None:
    """Of one program that reads all of a row, or of several."""
    whole = holds(run, lambda text: text.replace(*change), 1e-5)
    assert not (whole and holds(run, lambda text: shared_out(text.replace(*change)), 1e-5))


@pytest.mark.parametrize("run", [heads, latent])
def test_what_is_not_broken_is_not(run: Run) -> None:
    assert holds(run, shared_out, 1e-5)
