"""Conversions that are cut off: at any step and at any moment, the same command ends them."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from archsmith.compiler.convert import disk, journal
from archsmith.compiler.convert.layout import ToLayout
from archsmith.compiler.errors import ArchsmithError, OutputError
from convert.conftest import SHARD, convert, held
from safetensors.torch import load_file, save_file


def test_a_killed_conversion_goes_on_and_ends_the_same(
    package: Any, checkpoint: Path, whole: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    count = request.config.getoption("--examples") or 4
    places = [Path(package.__file__).parent, checkpoint, whole, tmp_path / "killed", SHARD]
    script = Path(__file__).with_name("killed.py")
    command = [sys.executable, "-W", "ignore", str(script), *map(str, places), str(count), "1"]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    print(found)
    assert found["wrong"] == []
    assert found["steps"] > 3 * len(list(whole.glob("*.safetensors")))
    assert count < 100 or found["killed"] > count // 10  # of few, all may come after the end


def test_a_line_of_the_journal_that_was_being_written_is_cut_off(
    package: Any, checkpoint: Path, whole: Path, tmp_path: Path
) -> None:
    begin(package, checkpoint, tmp_path / "out", shards=3)
    with (tmp_path / "out" / journal.NAME).open("ab") as file:
        file.write(b'{"file": "weights-00004-of')
    convert(package, checkpoint, tmp_path / "out")
    assert held(tmp_path / "out") == held(whole)


def test_an_unfinished_conversion_of_another_kind_is_refused(
    package: Any, checkpoint: Path, tmp_path: Path
) -> None:
    begin(package, checkpoint, tmp_path / "out", shards=1)
    before = held(tmp_path / "out")
    with pytest.raises(ArchsmithError, match="unfinished conversion with another dtype"):
        convert(package, checkpoint, tmp_path / "out", dtype=torch.bfloat16)
    changed = tmp_path / "changed"
    shutil.copytree(checkpoint, changed)  # with new dates
    os.utime(next(changed.glob("*.safetensors")), (1, 1))
    with pytest.raises(ArchsmithError, match="with another date of the checkpoint"):
        convert(package, changed, tmp_path / "out")
    assert held(tmp_path / "out") == before


def test_a_folder_that_holds_anything_else_is_left_alone(
    package: Any, checkpoint: Path, tmp_path: Path
) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(ArchsmithError, match="is not empty"):
        convert(package, checkpoint, tmp_path)
    assert held(tmp_path) == {"note.txt": b"mine"}


def test_only_one_at_a_time(package: Any, checkpoint: Path, tmp_path: Path) -> None:
    begin(package, checkpoint, tmp_path / "out", shards=1)
    job = json.loads((tmp_path / "out" / journal.NAME).read_text().splitlines()[0])
    with (
        pytest.raises(ArchsmithError, match="being written by another"),
        journal.opened(tmp_path / "out", job),
    ):
        convert(package, checkpoint, tmp_path / "out")


def test_what_is_done_is_not_done_again(package: Any, checkpoint: Path, whole: Path) -> None:
    before = {path.name: path.stat().st_mtime_ns for path in whole.iterdir()}
    convert(package, checkpoint, whole)
    assert {path.name: path.stat().st_mtime_ns for path in whole.iterdir()} == before


def test_what_was_made_of_another_checkpoint_is_not_taken_for_done(
    package: Any, checkpoint: Path, tmp_path: Path
) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    shutil.copytree(checkpoint, source)
    convert(package, source, out)
    for file in source.glob("*.safetensors"):
        file.write_bytes(file.read_bytes())  # the same again: younger, and no other
    convert(package, source, out)
    tensors = load_file(file)
    name = next(iter(tensors))
    tensors[name] += 1
    save_file(tensors, file, metadata={"format": "pt"})
    os.utime(file, (1, 1))
    with pytest.raises(ArchsmithError, match=f"has changed since .*\n  {name} is another in"):
        convert(package, source, out)
    (source / "tokenizer.json").write_text("{}")
    with pytest.raises(ArchsmithError, match=r"tokenizer\.json is another"):
        convert(package, source, out)


def test_a_checkpoint_that_changes_while_it_is_read_is_refused(
    package: Any, checkpoint: Path, tmp_path: Path
) -> None:
    source = tmp_path / "source"
    shutil.copytree(checkpoint, source)
    job = ToLayout(package, source, tmp_path / "out", None, SHARD)
    with pytest.raises(ArchsmithError, match=r"source has changed while it was read"):
        job.run(lambda count: rewrite(source))


def rewrite(source: Path) -> None:
    """Change the last number of a checkpoint, and nothing that its headers say."""
    file = sorted(source.glob("*.safetensors"))[-1]
    held = bytearray(file.read_bytes())
    held[-2] ^= 1
    file.write_bytes(held)


@pytest.mark.parametrize("line", ["5", "[]", "{}", '{"file": 3}'])
def test_lines_of_a_journal_that_are_none(
    line: str, package: Any, checkpoint: Path, whole: Path, tmp_path: Path
) -> None:
    begin(package, checkpoint, tmp_path / "out", shards=3)
    path = tmp_path / "out" / journal.NAME
    first, second, *rest = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first, second, line + "\n", *rest]))
    convert(package, checkpoint, tmp_path / "out")
    assert held(tmp_path / "out") == held(whole)


def test_a_full_disk_says_so_and_the_rest_is_kept(
    package: Any, checkpoint: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def full(file: int) -> None:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OutputError, match="No space left on device; make room"):
            convert(package, checkpoint, tmp_path / "out")
    assert (tmp_path / "out" / journal.NAME).exists()
    convert(package, checkpoint, tmp_path / "out")
    assert held(tmp_path / "out") == held(whole)

    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda folder: shutil._ntuple_diskusage(9, 9, 0))
        with pytest.raises(OutputError, match=r"needs .* bytes, and 0 are free"):
            convert(package, checkpoint, tmp_path / "other")


def begin(package: Any, source: Path, folder: Path, *, shards: int) -> None:
    """Convert so many files, and be cut off."""
    job = ToLayout(package, source, folder, None, SHARD)
    job.begin()
    written = sum(output.nbytes for shard in job.shards[:shards] for output in shard.outputs)

    def cut_off(count: int) -> None:
        nonlocal written
        written -= count
        if written < 0:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.run(cut_off)
    assert len(list(folder.glob("*.safetensors"))) == shards
    assert len(list(folder.glob(f"*{disk.PARTIAL}"))) == 1
