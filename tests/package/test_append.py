"""What a kernel appends to a cache, against what is written to it: contexts, rings and padding."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from archsmith.compiler.driver import Compiler
from package.windowed import Kind

BATCH, LENGTH = 3, 40
CALLS: tuple[tuple[int, Sequence[int] | None], ...] = (
    (1, None),  # into an empty cache
    (5, [5, 2, 3]),  # ragged
    (1, None),
    (4, None),
    (8, None),  # overwrites what its first token reads
    (1, None),
    (3, [1, 3, 2]),
    (2, None),
)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """Of a layer with a window and one without, built for a GPU."""
    root = tmp_path_factory.mktemp("appended")
    page = root / "windowed.yaml"
    page.write_text(Kind(6, (("local",), ("whole",))).spec)
    compiler = Compiler.installed("h200", numeric=False)
    pipeline, passes = compiler.passes("O2")
    spec = compiler.load(page)
    compiler.package(spec, root / "appended_rows", pipeline, passes, prove=False)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(root))
        return importlib.import_module("appended_rows")


def put(*given: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
    """Stands in for a kernel: writes rows to two buffers, and returns something else."""
    *buffers, slots, q, k, v = given
    for buffer, rows in zip(buffers, (k, v), strict=True):
        buffer[slots] = rows
    return q * scale


def test_what_is_appended_is_what_is_written(package: ModuleType) -> None:
    torch.manual_seed(0)
    model = package.Model(package.Config())
    written, appended = (model.new_cache(BATCH, LENGTH) for _ in range(2))
    apart = 0
    for tokens, counts in CALLS:
        steps = [cache.begin(tokens, counts) for cache in (written, appended)]
        for one, other in zip(*(step.layers for step in steps), strict=True):
            k, v = (rows_of(one.buffers[name], tokens) for name in ("k", "v"))
            wanted = one.write("k", k), one.write("v", v)
            q, *found = other.append(("k", "v"), put, torch.ones(2), k, v, scale=3.0)
            assert (q == 3.0).all()
            assert all(map(torch.equal, found, wanted))
            for name, buffer in one.buffers.items():
                assert torch.equal(other.buffers[name][:, :-1], buffer[:, :-1])
            apart += any(ring.apart for ring in one.rings.values())
        for cache, step in zip((written, appended), steps, strict=True):
            cache.finish(step)
    assert apart == 3


def rows_of(buffer: torch.Tensor, tokens: int) -> Any:
    return torch.randn(BATCH, tokens, *buffer.shape[2:], dtype=buffer.dtype)
