"""Checkpoints made to mislead: each loads what another reader reads, or is one typed error."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest
import torch
from archsmith.compiler.cli import main
from click.testing import CliRunner
from package.mutations import cut, damaged, of_header, rewritten
from package.quantized import INDEX, SINGLE, projections_in_float8, store, without_float8
from package.tiny import Build, folder_of, fresh
from safetensors.torch import load_file, save_file

Checkpoint = tuple[ModuleType, Path]
SECONDS = 20  # so long may one load take before it counts as a hang
MEGABYTES = 300  # so much more memory may a campaign take
NORM = "model.norm.weight"


@pytest.fixture
def hostile(package: Build, tmp_path: Path) -> Checkpoint:
    """A Llama package, and a folder whose projections are in float8, in two files and an index."""
    built, folder = package("tiny-llama"), tmp_path / "hostile"
    built.save(fresh(built, torch.bfloat16), folder)
    store(projections_in_float8(load_file(folder / SINGLE)), folder)
    return built, folder


@pytest.fixture(autouse=True)
def hang() -> Iterator[Callable[[], None]]:
    """Ends the test that does not call it again in time."""

    def late(*_: object) -> None:
        raise AssertionError(f"it did not end within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    yield lambda: signal.alarm(SECONDS) and None
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


def attempt(built: ModuleType, folder: Path) -> tuple[Any, str]:
    """The model of a folder, or None and the message of the one error with which it is refused."""
    try:
        return built.load(folder), ""
    except (ValueError, FileNotFoundError) as error:
        found = error
    said = str(found)
    assert type(found) in (ValueError, FileNotFoundError), repr(found)
    assert str(folder) in said
    assert said.replace("\n", "").isprintable()
    assert len(said) < 50_000
    return None, said


def refused(built: ModuleType, folder: Path) -> str:
    """Why a folder is refused; empty where it is loaded."""
    return attempt(built, folder)[1]


def same(one: Any, other: Any) -> bool:
    """Whether two models are equal to the bit, NaN included."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in pairs)


def as_others_read_it(built: ModuleType, folder: Path, plain: Path) -> Any:
    """The model of a folder as `safetensors` reads it, and tests dequantize."""
    tensors = {}
    for file in set(json.loads((folder / INDEX).read_text())["weight_map"].values()):
        tensors |= load_file(folder / file)
    config = json.loads((folder / "config.json").read_text())
    block = (config.get("quantization_config") or {}).get("weight_block_size")
    save_file(without_float8(tensors, block), plain / SINGLE)
    return built.load(plain)


Damage = Callable[[bytes, Random], bytes]


def header_bytes(data: bytes, draw: Random) -> bytes:
    """Damage the header, with a length that says so or not."""
    if draw.random() < 0.5:
        return of_header(data, draw, damaged)
    return damaged(data, draw, 8 + int.from_bytes(data[:8], "little"))


def header_meaning(data: bytes, draw: Random) -> bytes:
    return of_header(data, draw, rewritten)


WEIGHTS = ("a.safetensors", "b.safetensors")
CAMPAIGNS: dict[str, tuple[tuple[str, ...], Damage]] = {
    "header-bytes": (WEIGHTS, header_bytes),
    "header-meaning": (WEIGHTS, header_meaning),
    "cut": (WEIGHTS, cut),
    "index-bytes": ((INDEX,), damaged),
    "index-meaning": ((INDEX,), rewritten),
    "config-bytes": (("config.json",), damaged),
    "config-meaning": (("config.json",), rewritten),
}


@pytest.mark.parametrize("campaign", CAMPAIGNS)
def test_random_damage_is_refused_or_read_as_others_read_it(
    hostile: Checkpoint,
    campaign: str,
    hang: Callable[[], None],
    request: pytest.FixtureRequest,
) -> None:
    """The first 200 are always the same ones; `--examples` goes on from there."""
    built, folder = hostile
    names, damage = CAMPAIGNS[campaign]
    whole = {name: (folder / name).read_bytes() for name in names}
    plain = folder.parent / "plain"
    built.save(fresh(built, torch.bfloat16), plain)
    expected = json.loads(folder_of(built).joinpath("config.json").read_text())["checkpoint"]
    before, loaded = peak(), 0
    examples = request.config.getoption("--examples") or 200
    for example in range(examples):
        hang()
        draw = Random(f"{campaign} {example}")
        name = draw.choice(names)
        (folder / name).write_bytes(damage(whole[name], draw))
        try:
            if (model := attempt(built, folder)[0]) is not None:
                loaded += 1
                assert same(model, as_others_read_it(built, folder, plain))
                agrees(json.loads((folder / "config.json").read_text()), expected["fields"])
        except BaseException as error:
            error.add_note(f"{campaign}, example {example}, in {folder}")
            raise
        (folder / name).write_bytes(whole[name])
    print(f"{campaign}: {examples}, loaded {loaded}, {peak() - before:.0f} MB more")
    assert peak() - before < MEGABYTES
    assert loaded < examples
    assert loaded > 0 or "meaning" not in campaign


def agrees(config: dict[str, Any], fields: dict[str, Any]) -> None:
    """What a configuration says in the words of the package is what the package says."""
    for field in config.keys() & fields.keys() - {"rope_parameters"}:
        assert config[field] in (None, fields[field]), field


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rewrite(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the header of a file as a tree."""

    def change(text: bytes, _: Random) -> bytes:
        tree = json.loads(text)
        edit(tree)
        return json.dumps(tree).encode()

    file.write_bytes(of_header(file.read_bytes(), Random(0), change))


def of_norm(**fields: Any) -> Callable[[dict[str, Any]], object]:
    return lambda tree: tree[NORM].update(fields)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (of_norm(dtype="I33"), f"{NORM} has the dtype 'I33', not one of BOOL, U8, I8"),
        (of_norm(dtype=["F32"]), f"{NORM} has the dtype ['F32'], not one of"),
        (of_norm(shape=[72.0]), f"{NORM} has the shape [72.0], not at most 8 sizes"),
        (of_norm(shape=[-72, -1]), f"{NORM} has the shape [-72, -1], not at most 8 sizes"),
        (of_norm(shape=[1] * 8 + [72]), f"{NORM} has the shape [1, 1, 1, 1, 1, 1, ...], not"),
        (of_norm(shape=[2**62, 4]), f"{NORM} would be {2**65} bytes, and has the data_offsets"),
        (of_norm(shape=[2**64]), f"{NORM} has the shape [18446744073709551616], not"),
        (of_norm(data_offsets=[0, 144, 288]), f"{NORM} has the data_offsets [0, 144, 288], not"),
        (of_norm(data_offsets=[0, 144]), " begins at byte "),
        (of_norm(more=1), f"{NORM} has {{'data_offsets': ["),
        (lambda tree: tree.update({NORM: 7}), f"{NORM} has 7, not dtype, shape and"),
        (lambda tree: tree.pop(NORM), " begins at byte "),
        (lambda tree: tree.update({"a\n\x1b": tree.pop(NORM)}), r"'a\n\x1b' is no tensor's name"),
        (lambda tree: tree.update({"a" * 256: tree.pop(NORM)}), "aaa' is no tensor's name"),
        (lambda tree: tree.update(__metadata__={"a": 1}), "its __metadata__ is {'a': 1}, not"),
        (lambda tree: tree.update(__metadata__=[]), "its __metadata__ is [], not strings"),
    ],
)
def test_a_header_that_lies(
    hostile: Checkpoint, edit: Callable[[dict[str, Any]], object], message: str
) -> None:
    built, folder = hostile
    rewrite(folder / "a.safetensors", edit)
    said = refused(built, folder)
    assert said.startswith(f"{folder / 'a.safetensors'} is not a safetensors file: ")
    assert message in said


@pytest.mark.parametrize("length", [0, 1, 2**25 + 1, 2**40, 2**60, 2**64 - 1])
def test_a_header_longer_than_its_file_is_not_read(hostile: Checkpoint, length: int) -> None:
    built, folder = hostile
    file = folder / "a.safetensors"
    file.write_bytes(length.to_bytes(8, "little") + file.read_bytes()[8:])
    os.truncate(file, 2**36)  # sparse: as long as it may be, no memory for its header
    before = peak()
    said = refused(built, folder)
    assert f"its header would be {length} bytes of {2**36}" in said
    assert peak() - before < 50


def test_a_json_file_that_is_too_large_is_not_read(hostile: Checkpoint) -> None:
    built, folder = hostile
    os.truncate(folder / "config.json", 2**36)
    assert f"has {2**36} bytes, more than" in refused(built, folder)


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
