"""Decode steps that never change, as a CUDA graph holds them: the same logits, the same operations.

Whether a graph can be recorded only a GPU tells; what makes its replays right is seen without one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import pytest
import torch
from archsmith.compiler.driver import Compiler
from models.conftest import built, forget
from models.tiny import FAMILIES, base, configurations
from package.tiny import buffers, fresh
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

LENGTH = 30
OTHERS = {"phi3": "long"}
"""Cases that are more than their family's plainest: factors for each pair of a rotation."""


@pytest.fixture(scope="module", params=FAMILIES)
def package(
    request: pytest.FixtureRequest, compiler: Compiler, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[ModuleType]:
    family: str = request.param
    root = tmp_path_factory.mktemp("unchanging")
    changes = configurations(family).CHANGES[OTHERS[family]] if family in OTHERS else {}
    fields = base(family) | changes | {"model_type": family}
    (root / "config.json").write_text(json.dumps(fields))
    sys.path.insert(0, str(root))
    yield built(compiler, root / "config.json", "O2", root / f"unchanging_{family}")
    sys.path.remove(str(root))
    forget("unchanging_")


def unchanging(model: Any, token: Tensor, cache: Any) -> Tensor:
    """As `model.decode`, by the steps that `DecodeStep` records and replays."""
    cache.check([1] * cache.batch)
    with cache.unchanging():
        logits: Tensor = model.decode(token, cache)
    cache.count([1] * cache.batch)
    return logits


def test_the_logits_are_those_of_decode(package: ModuleType) -> None:
    """On ragged rows, behind other calls, and behind a cut."""
    model = fresh(package)
    draw = torch.Generator().manual_seed(3)
    tokens = torch.randint(package.Config.vocab_size, (3, LENGTH), generator=draw)
    cache, other = (model.new_cache(3, LENGTH) for _ in range(2))

    def agree(steps: range) -> None:
        for t in steps:
            wanted = model.decode(tokens[:, t], cache)
            found = unchanging(model, tokens[:, t], other)
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
            assert other.lengths.tolist() == cache.lengths.tolist()

    agree(range(2))  # the first into an empty cache
    for each in (cache, other):
        model.prefill(tokens[:, :9], each, [9, 4, 1])
    agree(range(9, 13))
    kept = [length - back for length, back in zip(cache.lengths.tolist(), (3, 0, 1), strict=True)]
    for each in (cache, other):
        each.truncate(kept)
        model.extend(tokens[:, 13:15], each)
    agree(range(15, 18))
    for row, same in zip(buffers(other), buffers(cache), strict=True):
        torch.testing.assert_close(row, same, rtol=1e-12, atol=1e-12)


def test_a_full_cache_is_an_error_and_stays_as_it_was(package: ModuleType) -> None:
    model = fresh(package)
    cache = model.new_cache(2, 2)
    token = torch.tensor([1, 2])
    for _ in range(2):
        unchanging(model, token, cache)
    with pytest.raises(ValueError, match="row 0 holds 2 tokens and cannot take 1 more"):
        unchanging(model, token, cache)
    assert cache.lengths.tolist() == [2, 2]
    cache.truncate(1)
    unchanging(model, token, cache)


class Trace(TorchDispatchMode):
    """Every operation with all that it is given and gives: what a graph would hold of it.

    What it works on is told by shape, and by its place in its storage, which has a name where it is
    one of `known`.
    """

    def __init__(self, known: Sequence[Tensor]) -> None:
        super().__init__()
        self.known = {x.untyped_storage()._cdata: i for i, x in enumerate(known)}
        self.lines: list[str] = []
        self.devices: set[str] = set()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        out = function(*args, **(kwargs or {}))
        told = tree_map_only(Tensor, self.told, (args, kwargs, out))
        self.lines.append(f"{function}{told}")
        return out

    def told(self, x: Tensor) -> str:
        self.devices.add(x.device.type)
        whose = self.known.get(x.untyped_storage()._cdata, "new")
        return f"{whose} {x.dtype}{[*x.shape]}{x.stride()}+{x.storage_offset()}"


def test_every_step_is_the_same_operations_on_the_same_memory(package: ModuleType) -> None:
    """With the choice of a token. Nothing can be read from the meta device, so nothing is waited
    for; nothing is of the host, whose memory a replay would read again."""
    meta = torch.device("meta")
    with meta:
        model = package.Model(package.Config())
        token = torch.zeros(3, dtype=torch.int64)
    cache = model.new_cache(3, LENGTH)
    cache.count([6, 2, 5])
    unchanging(model, token, cache)  # what is placed once is placed now
    cache.truncate([6, 2, 5])
    generate = sys.modules[f"{package.__name__}.generate"]
    choose = generate.Choice(3, meta, 0.7, 0.9, [5, 7], None)
    known = [token, choose.ended, choose._stop, cache.lengths, cache._first, *buffers(cache)]
    known += model.state_dict().values()
    traces = []
    for way in (type(model).decode, *[unchanging] * 3):  # past the end of a ring
        with Trace(known) as trace:
            token.copy_(choose(way(model, token, cache)))
        traces.append(trace.lines)
        assert trace.devices == {"meta"}
    read_less, first, *others = traces
    assert any("index_put" in line for line in first)
    assert all(other == first for other in others)
    assert read_less != first
