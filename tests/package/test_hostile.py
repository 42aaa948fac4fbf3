"""Checkpoints made to mislead: each loads what another reader reads, or is one typed error."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import pytest
import torch
from package.attempts import NORM, Checkpoint, attempt, peak, refused, rewrite, same
from package.mutations import cut, damaged, of_header, rewritten
from package.quantized import INDEX, SINGLE, without_float8, without_mxfp4
from package.tiny import folder_of, fresh
from safetensors.torch import load_file, save_file

MEGABYTES = 300  # so much more memory may a campaign take


def as_others_read_it(built: ModuleType, folder: Path, plain: Path) -> Any:
    """The model of a folder as `safetensors` reads it, and tests dequantize."""
    tensors = {}
    for file in set(json.loads((folder / INDEX).read_text())["weight_map"].values()):
        tensors |= load_file(folder / file)
    config = json.loads((folder / "config.json").read_text())
    block = (config.get("quantization_config") or {}).get("weight_block_size")
    held = without_float8(tensors, block) if block else without_mxfp4(tensors)
    save_file(held, plain / SINGLE)
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
    """The first 120 are always the same ones; `--examples` goes on from there."""
    damage_and_load(hostile, campaign, hang, request.config.getoption("--examples") or 120)


@pytest.mark.parametrize("campaign", ["header-meaning", "config-meaning"])
def test_random_damage_to_mxfp4(
    hostile_mxfp4: Checkpoint,
    campaign: str,
    hang: Callable[[], None],
    request: pytest.FixtureRequest,
) -> None:
    damage_and_load(hostile_mxfp4, campaign, hang, request.config.getoption("--examples") or 40)


def damage_and_load(
    hostile: Checkpoint, campaign: str, hang: Callable[[], None], examples: int
) -> None:
    built, folder = hostile
    names, damage = CAMPAIGNS[campaign]
    whole = {name: (folder / name).read_bytes() for name in names}
    plain = folder.parent / "plain"
    built.save(fresh(built, torch.bfloat16), plain)
    expected = json.loads(folder_of(built).joinpath("config.json").read_text())["checkpoint"]
    before, loaded = peak(), 0
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
