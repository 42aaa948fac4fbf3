"""Packages whose caches lie in pages: the numbers of contiguous ones, whoever has which page."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest
import torch
from archsmith.compiler.driver import Compiler
from models.test_unchanging import Trace, unchanging
from package.tiny import EXAMPLES, Build, buffers, close, folder_of, fresh, prompt
from package.windowed import Kind
from torch import Tensor

PAGE, LENGTH, ROWS = 4, 36, 3
PASSES = f"O2,page-cache{{page={PAGE}}}"
RINGS = Kind(6, (("local",), ("whole",))).spec


class Pair(NamedTuple):
    """A model with caches of rows, and the same with caches of pages."""

    rows: Any
    paged: Any
    tokens: Tensor

    def caches(self, **options: int) -> tuple[Any, Any]:
        return self.rows.new_cache(ROWS, LENGTH), self.paged.new_cache(ROWS, LENGTH, **options)


@pytest.fixture(scope="module", params=["tiny-llama", "tiny-deepseek-v2", "rings"])
def packages(
    request: pytest.FixtureRequest, package: Build, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[ModuleType, ModuleType]]:
    """One package with rows and one with pages."""
    root, name = tmp_path_factory.mktemp("pages"), f"paged_{request.param.replace('-', '_')}"
    spec = RINGS if request.param == "rings" else (EXAMPLES / f"{request.param}.yaml").read_text()
    (root / "page.yaml").write_text(spec)
    compiler = Compiler.installed(numeric=False)
    pipeline, passes = compiler.passes(PASSES)
    compiler.package(compiler.load(root / "page.yaml"), root / name, pipeline, passes, prove=False)
    sys.path.insert(0, str(root))
    if request.param == "rings":
        rows = package("tiny-llama", lambda page: RINGS, "whole_and_ring")
    else:
        rows = package(request.param)
    yield rows, importlib.import_module(name)
    sys.path.remove(str(root))


@pytest.fixture
def pair(packages: tuple[ModuleType, ModuleType]) -> Pair:
    rows, paged = (fresh(package) for package in packages)
    paged.load_state_dict(rows.state_dict())
    return Pair(rows, paged, prompt(packages[0], ROWS, LENGTH))


def poison(cache: Any) -> None:
    """Let pages that no row has hold what is no number, and what is behind a row's last token."""
    for layer in cache.buffers:
        for pages in layer.values():
            if pages.shape[1] == PAGE:
                pages[cache._free] = torch.nan
    for row, (pages, held) in enumerate(zip(cache._rows, cache._counts, strict=True)):
        assert cache.table[row].tolist() == pages + [0] * (cache.table.shape[1] - len(pages))
        for layer in cache.buffers:
            for pool in layer.values():
                if pool.shape[1] == PAGE and held % PAGE:
                    pool[pages[held // PAGE], held % PAGE :] = torch.nan


def feed(pair: Pair, caches: Sequence[Any], tokens: Tensor, lengths: list[int] | None) -> None:
    """Give both models the same, and compare what they answer to the bit."""
    poison(caches[1])
    if tokens.shape[1] == 1:
        found = [m.decode(tokens[:, 0], c) for m, c in zip(pair[:2], caches, strict=True)]
    elif lengths is None:
        found = [m.extend(tokens, c) for m, c in zip(pair[:2], caches, strict=True)]
    else:
        found = [m.prefill(tokens, c, lengths) for m, c in zip(pair[:2], caches, strict=True)]
    if hasattr(pair.rows.layers[-1], "router"):  # of padding, other tokens are a product's rows
        close(*found)
    else:
        assert torch.equal(*found)
    assert caches[0].lengths.tolist() == caches[1].lengths.tolist()


def test_pages_are_rows(pair: Pair) -> None:
    """Ragged and not, in calls of every kind, over the ends of pages, and behind cuts."""
    caches, tokens = pair.caches(), pair.tokens
    feed(pair, caches, tokens[:, :9], [9, 3, 4])
    feed(pair, caches, tokens[:, 9:18], None)  # as prefill does, behind a context
    for t in range(18, 21):
        feed(pair, caches, tokens[:, t : t + 1], None)
    feed(pair, caches, tokens[:, :3], [1, 3, 2])  # as decoding does, with padding
    feed(pair, caches, tokens[:, :2], None)
    for cache in caches:
        cache.truncate([22, 17, 16])
    feed(pair, caches, tokens[:, :10], [10, 1, 7])  # and ragged
    feed(pair, caches, tokens[:, :1], None)
    held = caches[1].lengths.tolist()
    assert caches[1].free_pages == ROWS * 9 - sum(-(-n // PAGE) for n in held)


def test_a_row_begins_anew_while_others_go_on(pair: Pair) -> None:
    caches, tokens = pair.caches(pages=9), pair.tokens
    feed(pair, caches, tokens[:, :9], [9, 8, 5])
    assert caches[1].free_pages == 9 - 3 - 2 - 2
    caches[1].free(1)
    caches[0].truncate([9, 0, 5])
    assert caches[1].lengths.tolist() == [9, 0, 5]
    assert caches[1].free_pages == 9 - 3 - 2
    for step in range(2):  # its pages are now the first row's, and the last one's
        feed(pair, caches, tokens[:, step : step + 4].roll(step, 0), [4, 1, 3])
    assert caches[1].free_pages == 0
    with pytest.raises(ValueError, match="row 5 is none of 3"):
        caches[1].free(5)


def test_too_few_pages_change_nothing(pair: Pair) -> None:
    _, cache = pair.caches(pages=4)
    model, tokens = pair.paged, pair.tokens
    model.prefill(tokens[:, :5], cache, [5, 4, 2])
    before = cache.table.clone(), [rows.clone() for rows in buffers(cache)]
    with pytest.raises(ValueError, match="rows need 1 more pages of 4 tokens, and 0 of 4 are free"):
        model.decode(tokens[:, 0], cache)
    with pytest.raises(ValueError, match="row 0 holds 5 tokens and cannot take 32 more"):
        model.extend(tokens[:, :32], cache)
    assert cache.lengths.tolist() == [5, 4, 2]
    assert torch.equal(cache.table, before[0])
    assert all(map(torch.equal, buffers(cache), before[1]))
    cache.truncate([4, 4, 2])
    with pytest.raises(ValueError, match="rows need 2 more pages"):
        model.decode(tokens[:, 0], cache)
    with pytest.raises(ValueError, match="needs 1 page or more, got 0"):
        model.new_cache(1, 9, pages=0)
    cache.free(1)
    model.prefill(tokens[:, :3], cache, [1, 3, 1])
    assert cache.free_pages == 0


def test_what_it_holds(pair: Pair) -> None:
    whole, paged = pair.caches(pages=5)
    assert paged.bytes_per_token == whole.bytes_per_token
    rings = sum(rows.nbytes for rows in buffers(paged) if rows.shape[1] != PAGE)
    assert paged.nbytes == rings + (5 + 1) * PAGE * paged.bytes_per_token
    _, full = pair.caches()
    full.begin(LENGTH)
    assert full.free_pages == 0


@pytest.mark.parametrize("packages", ["rings"], indirect=True)
def test_recorded_steps_are_the_same_operations(
    pair: Pair, packages: tuple[ModuleType, ModuleType]
) -> None:
    """Pages are given between steps, in the table that each reads."""
    package = packages[1]
    cache, other = pair.paged.new_cache(ROWS, LENGTH), pair.paged.new_cache(ROWS, LENGTH)
    for t in range(2 * PAGE + 1):
        wanted = pair.paged.decode(pair.tokens[:, t], cache)
        close(unchanging(pair.paged, pair.tokens[:, t], other), wanted)
    with torch.device("meta"):
        model = package.Model(package.Config())
        token = torch.zeros(ROWS, dtype=torch.int64)
    cache = model.new_cache(ROWS, LENGTH)
    unchanging(model, token, cache)
    known = [token, cache.lengths, cache.table, *buffers(cache), *model.state_dict().values()]
    traces = []
    for _ in range(PAGE + 1):
        cache.check([1] * ROWS)
        with Trace(known) as trace, cache.unchanging():
            token.copy_(model.decode(token, cache).argmax(-1))
        cache.count([1] * ROWS)
        traces.append(trace.lines)
        assert trace.devices == {"meta"}
    assert all(lines == traces[0] for lines in traces)
    assert any("gather" in line for line in traces[0])


def test_text_is_the_same(pair: Pair, packages: tuple[ModuleType, ModuleType]) -> None:
    given = pair.tokens[:, :7], torch.tensor([7, 2, 5])
    rows, paged = (
        package.generate(model, given[0], max_new_tokens=9, lengths=given[1])
        for package, model in zip(packages, pair[:2], strict=True)
    )
    assert torch.equal(rows, paged)


def test_only_a_package_with_pages_speaks_of_them(
    packages: tuple[ModuleType, ModuleType],
) -> None:
    rows, paged = (folder_of(package) for package in packages)
    said = [path for path in rows.rglob("*.py") if "page" in path.read_text().lower()]
    assert [path.relative_to(rows) for path in said] in ([], [Path("files.py")])
    assert (paged / "paged_cache.py").exists()
