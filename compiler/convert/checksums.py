"""`checksums.json`: the sha256 of all that a folder holds, and of what it was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, BinaryIO

from pydantic import BaseModel, Field, ValidationError
from safetensors import SafetensorError, safe_open

from ..errors import ArchsmithError, DamagedError
from .disk import whole

NAME = "checksums.json"
CHUNK = 2**24  # bytes
MOST_BYTES = 2**28  # ten times what the largest published model needs
File = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,254}$")]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,255}$")]
Word = Annotated[str, Field(pattern=r"^[A-Z0-9_]{1,16}$")]
Words = Annotated[str, Field(pattern=r"^[ -~]{1,80}$")]
Length = Annotated[int, Field(ge=0)]


class Source(BaseModel):
    """A tensor that was read: its sha256, and its dtype as safetensors names it."""

    sha256: str
    dtype: Word


class Summed(BaseModel):
    """A file of tensors: its bytes, and the length and sha256 of its header and of each tensor."""

    size: int
    header: tuple[Length, str]
    tensors: list[tuple[Name, Length, str]]


class Said(BaseModel):
    """What must be there, so that whatever is read is read of files in the folder."""

    job: dict[str, str | int]
    shards: dict[File, Summed]
    files: dict[File, str]
    sources: dict[Name, Source]
    unread: list[Name]
    formats: dict[Name, Words] = {}
    copies: dict[Name, Name] = {}
    changed: dict[Name, Words] = {}


def write(folder: Path, said: Mapping[str, Any]) -> None:
    """Write what is said, and a digest of it."""
    with whole(folder / NAME) as file:
        file.write(_bytes(said))


def read(folder: Path) -> dict[str, Any]:
    """Return what a folder's file says.

    Raises `ArchsmithError` where there is none, and `DamagedError` where it is not to the byte what
    was written.
    """
    path = folder / NAME
    if not path.is_file():
        raise ArchsmithError(f"{folder} has no {NAME}, which `archsmith convert` writes")
    if (size := path.stat().st_size) > MOST_BYTES:
        raise ArchsmithError(f"{path} has {size} bytes, more than {MOST_BYTES}")
    held = path.read_bytes()
    try:
        said: dict[str, Any] = json.loads(held)
        said.pop("digest")
        right = held == _bytes(said)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        right = False
    if not right:
        raise DamagedError(f"{path} is damaged: it is not what was written")
    try:
        Said.model_validate_json(held, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(repr, first["loc"]))
        raise ArchsmithError(
            f"{path} is none that `archsmith convert` writes: {where}: {first['msg']}"
        ) from None
    return said


def altered(folder: Path, said: Mapping[str, Any], advance: Callable[[int], None]) -> Iterator[str]:
    """Compare a folder's small files with what is said of them; yields what differs, by name."""
    for name, digest in said["files"].items():
        if not (folder / name).is_file():
            yield f"{name} is missing"
            continue
        with (folder / name).open("rb") as file:
            size = (folder / name).stat().st_size
            if _sha256(file, size, advance) != digest:
                yield f"{name} is damaged"


def damages(folder: Path, said: Mapping[str, Any], advance: Callable[[int], None]) -> Iterator[str]:
    """Compare every byte of a folder with what is said of it; yields what differs, by name."""
    yield from altered(folder, said, advance)
    for name, shard in said["shards"].items():
        if not (folder / name).is_file():
            yield f"{name} is missing"
            continue
        size = (folder / name).stat().st_size
        if size != shard["size"]:
            yield f"{name} has {size} bytes, not {shard['size']}"
        with (folder / name).open("rb") as file:
            length, digest = shard["header"]
            if _sha256(file, length, advance) != digest:
                yield f"{name} is damaged in its header"
            for tensor, length, digest in shard["tensors"]:
                if _sha256(file, length, advance) != digest:
                    yield f"{name} is damaged in {tensor}"
    for path in sorted(folder.glob("*.safetensors")):
        if path.name not in said["shards"]:
            yield f"{path.name} is none of its files"


def differences(
    source: Path, said: Mapping[str, Any], advance: Callable[[int], None]
) -> Iterator[str]:
    """Compare the tensors that were read of another folder with those it has now; yields names."""
    held = {
        name: place
        for file in sorted(source.glob("*.safetensors"))
        for name, place in _places(file)
    }
    for name, was in said["sources"].items():
        if name not in held:
            yield f"{name} is not in {source}"
            continue
        path, start, length = held[name]
        with path.open("rb") as file:
            file.seek(start)
            if _sha256(file, length, advance) != was["sha256"]:
                yield f"{name} is another in {path}"


def _places(path: Path) -> Iterator[tuple[str, tuple[Path, int, int]]]:
    """The tensors of a safetensors file: their names, where each begins, and its length."""
    try:
        with safe_open(path, framework="np"):  # which checks the header
            pass
    except SafetensorError as error:
        raise ArchsmithError(f"{path} is not a safetensors file: {error}") from None
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        entries = json.loads(file.read(length))
    for name, entry in entries.items():
        if name != "__metadata__":
            first, end = entry["data_offsets"]
            yield name, (path, 8 + length + first, end - first)


def _sha256(file: BinaryIO, length: int, advance: Callable[[int], None]) -> str:
    """The digest of the next bytes of a file, or of those that are left."""
    found = hashlib.sha256()
    while length and (held := file.read(min(length, CHUNK))):
        found.update(held)
        advance(len(held))
        length -= len(held)
    return found.hexdigest()


def _bytes(said: Mapping[str, Any]) -> bytes:
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**said, "digest": digest}, sort_keys=True, indent=1) + "\n").encode()
