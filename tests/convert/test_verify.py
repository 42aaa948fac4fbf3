"""Checksums: any bit of a converted folder that changes is found, and named."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from archsmith.compiler.convert import checksums
from archsmith.compiler.convert.conversion import verify
from archsmith.compiler.errors import ArchsmithError, DamagedError
from convert.conftest import convert, restore


class Watched:
    """What a progress bar is told."""

    def __init__(self) -> None:
        self.total = self.seen = 0

    def begin(self, doing: str, total: int) -> None:
        self.total += total

    def advance(self, count: int) -> None:
        self.seen += count


def test_a_whole_folder_and_its_source(checkpoint: Path, whole: Path) -> None:
    watched = Watched()
    tensors = verify(whole, None, watched)
    assert tensors == len(
        json.loads((whole / "weights.safetensors.index.json").read_text())["weight_map"]
    )
    assert 0 < watched.total <= watched.seen
    verify(whole, checkpoint, Watched())


def test_any_flipped_bit_is_found(
    whole: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    draw = random.Random(7)
    files = sorted(folder.iterdir())
    for _ in range(request.config.getoption("--examples") or 40):
        path = draw.choice(files)
        held = bytearray(path.read_bytes())
        at, bit = draw.randrange(len(held)), draw.randrange(8)
        held[at] ^= 1 << bit
        path.write_bytes(held)
        with pytest.raises(DamagedError, match=path.name):
            verify(folder, None, Watched())
        held[at] ^= 1 << bit
        path.write_bytes(held)
    verify(folder, None, Watched())


def test_the_damaged_tensor_is_named(whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    last = sorted(folder.glob("*.safetensors"))[-1]
    named = json.loads((folder / checksums.NAME).read_text())["shards"][last.name]["tensors"][-1][0]
    last.write_bytes(last.read_bytes()[:-1] + b"\x00")
    with pytest.raises(DamagedError, match=rf"{last.name} is damaged in {named}$"):
        verify(folder, None, Watched())
    with last.open("ab") as file:
        file.write(b"more")
    with pytest.raises(DamagedError, match=f"{last.name} has .* bytes, not"):
        verify(folder, None, Watched())
    last.unlink()
    with pytest.raises(DamagedError, match=f"{last.name} is missing"):
        verify(folder, None, Watched())


def test_strange_files_and_folders(checkpoint: Path, whole: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    (folder / "notes.txt").write_text("mine")
    verify(folder, None, Watched())
    (folder / "more.safetensors").write_bytes(b"")
    with pytest.raises(DamagedError, match=r"more.safetensors is none of its files"):
        verify(folder, None, Watched())
    with pytest.raises(ArchsmithError, match=r"has no checksums.json, which"):
        verify(checkpoint, None, Watched())


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"digest": 1}', "[" * 100_000, "\ud800"])
def test_checksums_that_are_none(tmp_path: Path, text: str) -> None:
    (tmp_path / checksums.NAME).write_text(text, errors="surrogatepass")
    with pytest.raises(DamagedError, match=r"checksums.json is damaged"):
        verify(tmp_path, None, Watched())


def test_a_source_that_changed(
    built: Callable[[str], ModuleType], package: Any, checkpoint: Path, whole: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    file = sorted(source.glob("*.safetensors"))[-1]
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    with pytest.raises(DamagedError, match=rf"is another in .*{file.name}"):
        verify(whole, source, Watched())


def test_a_checkpoint_of_a_damaged_folder_is_refused(
    package: Any, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    last = sorted(folder.glob("*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:-2] + b"\x12\x34")
    with pytest.raises(DamagedError, match="is not what it was when"):
        restore(package, folder, tmp_path / "checkpoint")


def test_damage_in_what_was_rounded_is_found_on_the_way_back(
    package: Any, checkpoint: Path, tmp_path: Path
) -> None:
    """There is no digest of such a tensor to compare with, but one of what holds it."""
    source, folder = tmp_path / "source", tmp_path / "out"
    package.save(package.load(checkpoint, dtype=torch.float32), source)
    convert(package, source, folder, dtype=torch.bfloat16)
    last = sorted(folder.glob("*.safetensors"))[-1]
    last.write_bytes(last.read_bytes()[:-2] + b"\x12\x34")
    with pytest.raises(DamagedError, match=f"{last.name} is damaged in"):
        restore(package, folder, tmp_path / "checkpoint")


@pytest.mark.parametrize("text", [None, "{}", "[]", "{", '{"rope_theta": 5}'])
def test_a_configuration_that_is_not_what_it_was(
    text: str | None, package: Any, whole: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_text(text)
    with pytest.raises(DamagedError, match=r"config.json is (missing|damaged)"):
        restore(package, folder, tmp_path / "checkpoint")


NAME = "model.norm.weight"


@pytest.mark.parametrize(
    "edit",
    [
        lambda said: said["sources"].pop(NAME),
        lambda said: said["sources"][NAME].pop("sha256"),
        lambda said: said["sources"][NAME].pop("dtype"),
        lambda said: said["sources"][NAME].update(dtype="\x1b[2J"),
        lambda said: said["sources"].update({"\x1b[2J": said["sources"][NAME]}),
        lambda said: (said["sources"].pop(NAME), said.update(formats={NAME: "F32"})),
        lambda said: said.update(formats={NAME: "\x1b[2J"}),
        lambda said: said.update(copies=[]),
        lambda said: said.update(copies={"a": "b"}),
        lambda said: said.pop("unread"),
        lambda said: said.update(unread=["\x1b[2J"]),
        lambda said: next(iter(said["shards"].values()))["tensors"][0].__setitem__(0, "../a"),
        lambda said: next(iter(said["shards"].values()))["tensors"][0].__setitem__(1, -1),
        lambda said: said["shards"].popitem(),
    ],
)
def test_checksums_that_were_made_to_mislead(
    edit: Callable[[dict[str, Any]], object], package: Any, whole: Path, tmp_path: Path
) -> None:
    """Whoever writes them has a digest of them too: still each is one typed error."""
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    said = checksums.read(folder)
    edit(said)
    checksums.write(folder, said)
    for use in (
        lambda: verify(folder, whole, Watched()),
        lambda: restore(package, folder, tmp_path / "checkpoint"),
    ):
        with pytest.raises(ArchsmithError) as error:
            use()
        assert "\x1b" not in str(error.value)


def test_what_is_restored_has_checksums_too(package: Any, whole: Path, tmp_path: Path) -> None:
    restore(package, whole, tmp_path / "checkpoint")
    verify(tmp_path / "checkpoint", whole, Watched())
    convert(package, tmp_path / "checkpoint", tmp_path / "again")
    tensors = [held["shards"] for held in map(checksums.read, (whole, tmp_path / "again"))]
    assert tensors[0] == tensors[1]
