"""Caches of which attention reads a window: they hold little more than that, and all it needs."""

from __future__ import annotations

import importlib
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from archsmith.compiler.driver import Compiler
from archsmith.compiler.errors import ProofError
from package.windowed import FAR_ROW, KINDS, NEAR_ROW, Kind, write_spec
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass(frozen=True)
class Built:
    """An emitted package, and a model of it with random weights."""

    kind: Kind
    package: ModuleType
    model: Any
    folder: Path

    @property
    def window(self) -> int:
        return self.kind.window

    def full(self, text: list[int]) -> torch.Tensor:
        """The logits of one forward without a cache, [T, vocab]."""
        with torch.no_grad():
            logits: torch.Tensor = self.model(torch.tensor([text]))[0]
        return logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("windows")
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """What is computed here is tiny: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=KINDS)
def built(request: pytest.FixtureRequest, folder: Path) -> Built:
    kind: str = request.param
    compiler = Compiler.installed(numeric=False)
    spec = compiler.load(write_spec(folder / f"{kind}.yaml", kind))
    pipeline, passes = compiler.passes(None)
    # A window's probe does not follow its size, so most would be the same proof again.
    proved = kind in ("step_by_step", "in_one_block")
    compiler.package(spec, folder / kind, pipeline, passes, prove=proved)
    importlib.invalidate_caches()
    package = importlib.import_module(kind)
    torch.manual_seed(0)
    model = package.Model(package.Config())
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.4)
    return Built(KINDS[kind], package, model, folder / kind)


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)  # float64, in another order


def some_tokens(*shape: int) -> torch.Tensor:
    return torch.randint(61, shape, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize(
    "calls", [[40], [1] * 40, [7] + [1] * 33, [3, 2, 4, 1, 2, 9, 1, 1, 17], [2, 38]], ids=str
)
def test_text_in_pieces_gives_the_logits_of_one_forward(built: Built, calls: list[int]) -> None:
    tokens = some_tokens(2, 40)
    with torch.no_grad():
        wanted = built.model(tokens)
    cache, extended = (built.model.new_cache(2, 40) for _ in range(2))
    end = 0
    for call in calls:
        piece, end = tokens[:, end : end + call], end + call
        close(built.model.extend(piece, extended), wanted[:, end - call : end])
        if call == 1:
            close(built.model.decode(piece[:, 0], cache), wanted[:, end - 1])
        else:
            close(built.model.prefill(piece, cache), wanted[:, end - 1])


def test_any_calls_on_ragged_rows(built: Built) -> None:
    """A walk of calls, each compared with one forward over what its row then holds."""
    draw = random.Random(7)
    batch, length = 3, 90
    texts: list[list[int]] = [[] for _ in range(batch)]
    peaks = [0] * batch
    cache = built.model.new_cache(batch, length)
    for _ in range(80):
        room = length - max(map(len, texts))
        kinds = ["decode", "decode", "extend", "prefill", "ragged", "ragged", "cut", "cut"]
        kind = draw.choice(kinds)
        tokens = 1 if kind == "decode" else draw.randint(1, draw.choice([4, 12]))
        if kind != "ragged":  # whose padding may lie past the end of a row
            tokens = min(tokens, room)
        if room == 0 or kind == "cut":
            kept = [draw.choice([len(t), max(len(t) - draw.randint(1, 4), 0)]) for t in texts]
            if room == 0 or draw.random() < 0.1:
                kept[draw.randrange(batch)] = 0
            for row, count in enumerate(kept):  # no window keeps fewer than 3 more rows
                kept[row] = max(count, peaks[row] - 4) if count else 0
                peaks[row] = peaks[row] if kept[row] else 0
            cache.truncate(kept)
            texts = [text[:count] for text, count in zip(texts, kept, strict=True)]
            continue
        given = torch.tensor([[draw.randrange(61) for _ in range(tokens)] for _ in range(batch)])
        counts = [tokens] * batch
        if kind == "ragged":
            counts = [draw.randint(1, min(tokens, length - len(text))) for text in texts]
        for row, count in enumerate(counts):
            texts[row] = texts[row] + given[row, :count].tolist()
        if kind == "decode":
            found = built.model.decode(given[:, 0], cache)[:, None]
        elif kind == "extend":
            found = built.model.extend(given, cache)
        else:
            found = built.model.prefill(given, cache, counts if kind == "ragged" else None)[:, None]
        for row, text in enumerate(texts):
            close(found[row], built.full(text)[-found.shape[1] :])
        peaks = [max(peak, len(text)) for peak, text in zip(peaks, texts, strict=True)]
        assert cache.lengths.tolist() == [len(text) for text in texts]


def test_padding_sees_a_token(built: Built) -> None:
    """Where a window has none but padding too: a router, say, is never given what is no number."""
    tokens, cache = some_tokens(2, 6), built.model.new_cache(2, 40)
    built.model.prefill(tokens[:, :2], cache)
    with torch.no_grad():
        x, delta = built.model._append(tokens[:, 2:], cache, [1, 4])
    assert (x + delta).isfinite().all()


def test_a_long_generation(built: Built) -> None:
    tokens = some_tokens(2, 9)
    found = built.package.generate(
        built.model, tokens, max_new_tokens=200, lengths=torch.tensor([9, 4])
    )
    for row, length in enumerate((9, 4)):
        text = tokens[row, :length].tolist() + found[row].tolist()
        wanted = built.full(text)[length - 1 : -1]
        assert torch.equal(found[row], wanted.argmax(-1))


def test_what_a_window_has_passed_cannot_be_had_back(built: Built) -> None:
    tokens = some_tokens(1, 80)
    cache = built.model.new_cache(1, 80)
    for t in range(70):
        built.model.decode(tokens[:, t], cache)
    if built.window > 80:
        cache.truncate(10)
        close(built.model.decode(tokens[:, 10], cache)[0], built.full(tokens[0, :11].tolist())[-1])
        return
    before = [buffer.clone() for layer in cache.buffers for buffer in layer.values()]
    with pytest.raises(ValueError, match="row 0 cannot be cut to 10, but to 0 or 6"):
        cache.truncate(10)
    assert cache.lengths.tolist() == [70]
    after = [buffer for layer in cache.buffers for buffer in layer.values()]
    assert all(map(torch.equal, before, after))
    size = next(buffer.shape[1] for buffer in after) - 1
    least = 70 - (size - built.window) - 1
    with pytest.raises(ValueError, match=f"or {least} and more"):
        cache.truncate(least - 1)
    cache.truncate(least)
    close(
        built.model.extend(tokens[:, least : least + 3], cache)[0],
        built.full(tokens[0, : least + 3].tolist())[-3:],
    )
    cache.truncate(0)
    close(built.model.prefill(tokens[:, :30], cache)[0], built.full(tokens[0, :30].tolist())[-1])


def test_the_size_of_a_cache(built: Built) -> None:
    caches = [built.model.new_cache(2, length) for length in (300, 400)]
    near = sum(map(len, built.kind.blocks)) - built.kind.far
    per_token = built.kind.far * FAR_ROW
    for cache, length in zip(caches, (300, 400), strict=True):
        assert cache.bytes_per_token == per_token
        rows = (cache.nbytes / 2 - (length + 1) * per_token) / (near * NEAR_ROW)
        if built.window > length:
            assert rows == length + 1
        else:
            assert built.window < rows <= 1.25 * built.window + 4
    plan = json.loads((built.folder / "plan.json").read_text())
    assert plan["cache_bytes_per_token"] == per_token


class Made(TorchDispatchMode):
    """The elements of each tensor that an operation makes, but for views of `buffers`."""

    def __init__(self, buffers: list[torch.Tensor]) -> None:
        super().__init__()
        self.known = {buffer.untyped_storage()._cdata for buffer in buffers}
        self.sizes: list[int] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, torch.Tensor)]
        made = [leaf for leaf in made if leaf.untyped_storage()._cdata not in self.known]
        self.sizes += [leaf.numel() for leaf in made]
        return out


def test_decode_copies_no_buffer(built: Built) -> None:
    batch = 16
    cache = built.model.new_cache(batch, 600)
    built.model.prefill(some_tokens(batch, 550), cache)
    buffers = [buffer for layer in cache.buffers for buffer in layer.values()]
    with Made(buffers) as made:
        for t in range(3):
            built.model.decode(some_tokens(batch, 3)[:, t], cache)
    if built.window >= 20:  # a smaller one is less than other things, as the logits
        assert max(made.sizes) < min(buffer[:, 0].numel() * built.window for buffer in buffers)
    addresses = [buffer.data_ptr() for layer in cache.buffers for buffer in layer.values()]
    assert addresses == [buffer.data_ptr() for buffer in buffers]


def test_decode_never_waits_for_the_device(built: Built) -> None:
    # Nothing can be read from the meta device, so whatever waits for a value fails there.
    with torch.device("meta"):
        model = built.package.Model(built.package.Config())
        cache = model.new_cache(2, 30)
        token = torch.zeros(2, dtype=torch.int64)
        model.prefill(token[:, None].expand(2, 12), cache)
        for _ in range(18):
            assert model.decode(token, cache).shape == (2, 61)


MISTAKES = {
    "a slot off": ("positions % size", "(positions + 1) % size"),
    "rows overwritten before they are read": ("if padded or overwrites:", "if padded:"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_the_proof_of_a_package_finds_a_mistake_in_a_ring(mistake: str, folder: Path) -> None:
    compiler = Compiler.installed(numeric=False)
    text = compiler.registry.templates["ring.py"]
    right, wrong = MISTAKES[mistake]
    assert text.count(right) == 1
    templates = compiler.registry.templates | {"ring.py": text.replace(right, wrong)}
    compiler = replace(compiler, registry=replace(compiler.registry, templates=templates))
    pipeline, passes = compiler.passes(None)
    spec = compiler.load(write_spec(folder / "mistaken.yaml", "alternating"))
    with pytest.raises(ProofError, match="differs from the graph: block local, value %out"):
        compiler.package(spec, folder / "mistaken", pipeline, passes)
    assert not (folder / "mistaken").exists()


def test_a_model_without_windows_has_no_word_of_them(folder: Path, root: Path) -> None:
    compiler = Compiler.installed(numeric=False)
    pipeline, passes = compiler.passes(None)
    spec = compiler.load(root / "examples" / "tiny-llama.yaml")
    compiler.package(spec, folder / "whole", pipeline, passes, prove=False)
    assert not (folder / "whole" / "ring.py").exists()
    for file in ("cache.py", "model.py", "README.md"):
        assert "window" not in (folder / "whole" / file).read_text()
