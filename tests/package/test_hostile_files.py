"""Checkpoints whose files, index or links mislead: one typed error, and nothing else is opened."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from random import Random

import pytest
from archsmith.compiler.cli import main
from click.testing import CliRunner
from package.attempts import NORM, Checkpoint, refused, same
from package.mutations import of_header
from package.quantized import INDEX
from package.tiny import folder_of


@pytest.mark.parametrize("name", ["a.safetensors", INDEX, "config.json"])
def test_a_key_that_stands_twice_is_an_error(hostile: Checkpoint, name: str) -> None:
    """Readers take the first or the last, and see two checkpoints in one file."""
    built, folder = hostile
    data = (folder / name).read_bytes()
    key = "hidden_size" if name == "config.json" else NORM

    def again(text: bytes, _: Random) -> bytes:
        tree = json.loads(text)
        inner = tree["weight_map"] if name == INDEX else tree
        inner["@" + key] = inner[key]
        return json.dumps(tree).replace("@", "").encode()

    damage = of_header(data, Random(0), again) if name == "a.safetensors" else again(data, Random())
    (folder / name).write_bytes(damage)
    said = refused(built, folder)
    assert f"{folder / name} is not" in said
    assert f"'{key}' stands there twice" in said


def test_an_index_and_its_files_name_the_same_tensors(hostile: Checkpoint) -> None:
    built, folder = hostile
    index = json.loads((folder / INDEX).read_text())
    (folder / INDEX).write_text(json.dumps(index | {"metadata": {"total_size": -1}}))
    assert not refused(built, folder)  # what it says beside the map is not used
    places = index["weight_map"]
    del places[NORM]
    places["model.layers.0.extra"] = "b.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    said = refused(built, folder)
    assert f"  not in the index (1):\n    {NORM} in a.safetensors" in said
    assert "the index names (1):\n    model.layers.0.extra: b.safetensors" in said
    places["\x1b[31m"] = "b.safetensors"
    (folder / INDEX).write_text(json.dumps(index))
    assert r"names '\x1b[31m', which is no tensor's name" in refused(built, folder)


FILES = ["a.safetensors", INDEX, "config.json"]
ALL = [*FILES, "b.safetensors"]


@pytest.mark.parametrize("name", FILES)
def test_a_link_leads_no_further_than_its_folder(hostile: Checkpoint, name: str) -> None:
    built, folder = hostile
    file, outside = folder / name, folder.parent / f"blobs-{name}"
    file.rename(folder / "blob")
    file.symlink_to("blob")
    assert not refused(built, folder)
    (folder / "blob").rename(outside)
    file.unlink()
    file.symlink_to(outside)
    assert f"{file} is a link out of its folder, to {outside.resolve()}" in refused(built, folder)
    file.unlink()
    file.symlink_to(name)  # to itself
    assert f"{file} is no regular file" in refused(built, folder)
    file.unlink()
    os.link(outside, file)
    assert not refused(built, folder)


def test_a_cache_of_links_is_read(hostile: Checkpoint) -> None:
    """As Hugging Face keeps one: snapshots/<revision>/<file> -> ../../blobs/<digest>."""
    built, folder = hostile
    blobs, snapshot = folder.parent / "m" / "blobs", folder.parent / "m" / "snapshots" / "0a1b"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for i, file in enumerate(sorted(folder.iterdir())):
        shutil.copy(file, blobs / str(i))
        (snapshot / file.name).symlink_to(f"../../blobs/{i}")
    wanted = built.load(folder)
    assert same(built.load(snapshot), wanted)
    alias = folder.parent / "alias"
    alias.symlink_to(snapshot)  # a folder may be a link itself
    assert same(built.load(alias), wanted)
    (blobs / "0").rename(blobs.parent / "0")
    (snapshot / "a.safetensors").unlink()
    (snapshot / "a.safetensors").symlink_to("../../0")
    assert "is a link out of its folder" in refused(built, snapshot)


@pytest.mark.parametrize("name", FILES)
def test_what_is_no_regular_file_is_not_opened(
    hostile: Checkpoint, name: str, hang: Callable[[], None]
) -> None:
    built, folder = hostile
    (folder / name).unlink()
    os.mkfifo(folder / name)  # to open it would wait for a writer
    hang()
    assert f"{folder / name} is no regular file" in refused(built, folder)
    (folder / name).unlink()
    (folder / name).mkdir()
    assert f"{folder / name} is no regular file" in refused(built, folder)


WATCHED = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
module, folder, seen = __import__(sys.argv[2]), sys.argv[3], set()
module.load(folder)  # what it imports at first is not a checkpoint's doing
def hook(event, args):
    if event == "open" or event.partition(".")[0] in {
        *("exec", "compile", "import", "marshal", "pickle", "ctypes"),
        *("subprocess", "socket", "urllib", "shutil"),
    } or event in {"os.system", "os.exec", "os.fork", "os.posix_spawn", "os.listdir", "os.scandir"}:
        seen.add(f"{event} {args[0] if args else ''}")
sys.addaudithook(hook)
module.load(folder)
print(*sorted(seen), sep="\\n")
"""


def test_nothing_else_is_opened_and_nothing_is_executed(hostile: Checkpoint) -> None:
    built, folder = hostile
    bomb = b"cos\nsystem\n(S'touch " + str(folder / "ran").encode() + b"'\ntR."
    for name in ("pytorch_model.bin", "model.pt", "model.pkl", "training_args.bin"):
        (folder / name).write_bytes(bomb)
    for name in ("modeling_llama.py", "configuration.py", "sitecustomize.py", "__init__.py"):
        (folder / name).write_text(f"open({str(folder / 'ran')!r}, 'w')")
    config = json.loads((folder / "config.json").read_text())
    config |= {"auto_map": {"AutoModelForCausalLM": "modeling_llama.X"}, "trust_remote_code": True}
    (folder / "config.json").write_text(json.dumps(config))
    where = folder_of(built)
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(where.parent), where.name, str(folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=folder.parent,
    )
    opened = sorted(str(path) for path in [where / "config.json", *map(folder.joinpath, ALL)])
    assert done.stdout.splitlines() == [f"open {path}" for path in opened]
    assert not (folder / "ran").exists()


@pytest.mark.parametrize("name", FILES)
def test_the_command_says_it_once_and_shows_no_traceback(hostile: Checkpoint, name: str) -> None:
    built, folder = hostile
    whole = (folder / name).read_bytes()
    for damage in (b"", whole[:100], b"\xff" * 200, b'{"a": ' * 5000):
        (folder / name).write_bytes(damage)
        arguments = ["run", str(folder_of(built)), "--weights", str(folder), "--tokens", "1,2"]
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 1
        assert isinstance(done.exception, SystemExit)
        assert not done.stdout
        assert done.stderr.count(str(folder / name)) == 1
        assert "Traceback" not in done.stderr
