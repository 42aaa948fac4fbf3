"""The files of a checkpoint: shards and their index, and files that are not what they should be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from package.tiny import Build, fresh
from safetensors.torch import load_file, save_file

Checkpoint = tuple[ModuleType, Path]
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"


@pytest.fixture
def sharded(package: Build, tmp_path: Path) -> Checkpoint:
    built = package("tiny-deepseek-v2")
    built.save(fresh(built, torch.float32), tmp_path / "sharded", shard_bytes=400_000)
    return built, tmp_path / "sharded"


def reindex(folder: Path, edit: Callable[[dict[str, str]], object]) -> None:
    index = json.loads((folder / INDEX).read_text())
    edit(index["weight_map"])
    (folder / INDEX).write_text(json.dumps(index))


@pytest.mark.parametrize(
    "escape",
    ["../secret.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "x.bin", "-.safetensors"],
)
def test_an_index_cannot_reach_out_of_its_folder(sharded: Checkpoint, escape: str) -> None:
    built, folder = sharded
    save_file({"lm_head.weight": torch.zeros(331, 72)}, folder.parent / "secret.safetensors")
    reindex(folder, lambda places: places.update({"lm_head.weight": escape}))
    with pytest.raises(ValueError, match="which is no name of a safetensors file"):
        built.load(folder)


def test_a_tensor_in_two_shards_is_an_error(sharded: Checkpoint) -> None:
    built, folder = sharded
    shards = sorted(folder.glob("model-*.safetensors"))
    assert len(shards) >= 3
    first, other = load_file(shards[0]), load_file(shards[1])
    name = next(iter(first))
    save_file({**other, name: first[name]}, shards[1])
    with pytest.raises(ValueError, match=rf"in several files \(1\):\n    {name}"):
        built.load(folder)


def test_a_shard_that_lacks_what_the_index_promises(sharded: Checkpoint) -> None:
    built, folder = sharded
    shards = sorted(folder.glob("model-*.safetensors"))
    reindex(folder, lambda places: places.update({"lm_head.weight": shards[0].name}))
    with pytest.raises(ValueError, match=r"the index names \(1\):\n    lm_head"):
        built.load(folder)
    shards[1].unlink()
    with pytest.raises(FileNotFoundError, match=f"lacks {shards[1].name}, which its index names"):
        built.load(folder)


@pytest.mark.parametrize("kept", [0, 4, 100, 5000, -1])
def test_a_file_that_was_cut_off_is_an_error(checkpoint: Checkpoint, kept: int) -> None:
    built, folder = checkpoint
    whole = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(whole[:kept])
    with pytest.raises(ValueError, match="is not a safetensors file"):
        built.load(folder)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("config.json", "{", "is not JSON"),
        ("config.json", "[" * 100_000, "is not JSON"),
        ("config.json", "[]", "holds no JSON object"),
        (INDEX, "{}", "has no weight_map"),
        (INDEX, '{"weight_map": {"x": 3}}', "has no weight_map"),
        (INDEX, "\xff", "is not JSON"),
    ],
)
def test_files_that_hold_something_else(
    sharded: Checkpoint, file: str, text: str, message: str
) -> None:
    built, folder = sharded
    (folder / file).write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=message):
        built.load(folder)


def test_a_folder_without_weights(package: Build, tmp_path: Path) -> None:
    built = package("tiny-llama")
    with pytest.raises(FileNotFoundError):
        built.load(tmp_path / "none")
    built.save(fresh(built, torch.float32), tmp_path / "checkpoint")
    (tmp_path / "checkpoint" / SINGLE).unlink()
    with pytest.raises(FileNotFoundError, match="has neither"):
        built.load(tmp_path / "checkpoint")
