"""One conversion of a folder of tensors: begun, gone on with after it was cut off, and finished."""

from __future__ import annotations

import errno
import hashlib
import importlib
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ArchsmithError, OutputError
from . import checksums, journal
from .disk import whole
from .output import Shard
from .sources import Sources

KEPT = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""What stands beside the tensors of a checkpoint and goes where they go."""
SPARE = 2**24
"""Bytes of disk that are asked for beyond the tensors: headers, an index, a tokenizer."""


class Cost(NamedTuple):
    """What a conversion takes, in bytes; of memory, beside what Python and torch take."""

    read: int
    written: int
    memory: int
    free: int


@dataclass(frozen=True)
class Job(ABC):
    """A folder of tensors that a package reads, and the one that is written of it."""

    package: Any
    source: Path
    folder: Path
    dtype: Any
    shard_bytes: int

    @property
    @abstractmethod
    def identity(self) -> Mapping[str, str | int]:
        """What makes it this job and no other, beside when its source was last changed."""

    @property
    @abstractmethod
    def sources(self) -> Sources:
        """What is read; what was read for a shard is digested and noted with it."""

    @property
    @abstractmethod
    def shards(self) -> Sequence[Shard]:
        """The files of tensors to write."""

    @property
    @abstractmethod
    def texts(self) -> Mapping[str, bytes]:
        """The small files to write."""

    @property
    @abstractmethod
    def memory(self) -> int:
        """The bytes of tensors that are held at most at a time."""

    @abstractmethod
    def begin(self) -> None:
        """Check what can be checked beforehand; raises `ArchsmithError`. It comes before `run`."""

    @abstractmethod
    def said(self, shards: Mapping[str, Any]) -> Mapping[str, Any]:
        """What `checksums.json` says of the sources, which are all read, and of what is written."""

    @property
    def rounded(self) -> Mapping[str, str]:
        """The tensors that are wider than what is made of them, with both dtypes."""
        return {}

    @cached_property
    def done(self) -> dict[str, Any] | None:
        """What `checksums.json` says if all was done before `run`.

        Raises `ArchsmithError` where the folder holds anything else than what this job makes.
        """
        if not self.folder.exists():
            return None
        if not self.folder.is_dir():
            raise ArchsmithError(f"{self.folder} is no folder")
        if (self.folder / journal.NAME).exists():
            return None
        if (self.folder / checksums.NAME).is_file():
            done = checksums.read(self.folder)
            if done["job"] == self.identity:
                self._check_unchanged(done)
                return done
        if any(self.folder.iterdir()):
            raise ArchsmithError(f"{self.folder} is not empty; name a new folder")
        return None

    @property
    def size(self) -> int:
        """How many bytes of tensors are written."""
        return sum(output.nbytes for shard in self.shards for output in shard.outputs)

    def cost(self) -> Cost:
        """Say what it will take; nothing is read or written."""
        there = next(
            folder for folder in (self.folder, *self.folder.absolute().parents) if folder.exists()
        )
        read = sum(stored.size for stored in self.sources.found.stored.values())
        return Cost(read, self.size, self.memory, shutil.disk_usage(there).free)

    def run(self, advance: Callable[[int], None]) -> dict[str, Any]:
        """Do what is left of the job; returns what `checksums.json` then says.

        `advance` is told of bytes as they are written. Raises as `done` does, and `OutputError`
        where the disk is full.
        """
        if self.done is not None:
            advance(self.size)
            return self.done
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            begun = self._begun()
            with journal.opened(self.folder, begun) as notes:
                self._make_room(notes)
                for shard in self.shards:
                    self._write(shard, notes, advance)
                if self._begun() != begun:
                    raise ArchsmithError(f"{self.source} has changed while it was read")
                return self._finish(notes)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            raise OutputError(
                f"{self.folder}: {error.strerror}; make room, and the same command goes on"
            ) from None

    @property
    def _files(self) -> set[Path]:
        return {stored.file for stored in self.sources.found.stored.values()}

    def _begun(self) -> dict[str, str | int]:
        """What the journal begins with: a checkpoint that has changed is another."""
        changed = hashlib.sha256()
        for file in sorted(self._files):
            changed.update(f"{file.name} {file.stat().st_mtime_ns}\n".encode())
        return {**self.identity, "date of the checkpoint": changed.hexdigest()}

    def _check_unchanged(self, done: Mapping[str, Any]) -> None:
        """Raise `ArchsmithError` where what was read has other contents since.

        Tensors are read again only where a file of theirs is younger than what was made of them.
        """
        wrong = [
            f"{name} is another"
            for name, text in self.texts.items()
            if hashlib.sha256(text).hexdigest() != done["files"].get(name)
        ]
        made = (self.folder / checksums.NAME).stat().st_mtime_ns
        if any(file.stat().st_ctime_ns >= made for file in self._files):
            wrong += checksums.differences(self.source, done, lambda count: None)
        if wrong:
            said = (
                f"{self.source} has changed since {self.folder} was made of it; name a new folder"
            )
            raise ArchsmithError("\n".join([said, *(f"  {line}" for line in wrong)]))

    def _make_room(self, notes: journal.Journal) -> None:
        """Raise `OutputError` where the disk has too little left for what is not yet written."""
        left = sum(shard.size for shard in self.shards if not self._is_done(shard, notes))
        free = shutil.disk_usage(self.folder).free
        if left + SPARE > free:
            raise OutputError(f"{self.folder} needs {left + SPARE:,} bytes, and {free:,} are free")

    def _is_done(self, shard: Shard, notes: journal.Journal) -> bool:
        path = self.folder / shard.file
        return shard.file in notes.done and path.is_file() and path.stat().st_size == shard.size

    def _write(self, shard: Shard, notes: journal.Journal, advance: Callable[[int], None]) -> None:
        if self._is_done(shard, notes):
            self.sources.digests.update(notes.done[shard.file]["sources"])
            advance(sum(output.nbytes for output in shard.outputs))
            return
        self.sources.new.clear()
        noted = shard.write(self.folder, advance)
        read = {name: self.sources.digests[name] for name in self.sources.new}
        notes.add(shard.file, {**noted, "sources": read})

    def _finish(self, notes: journal.Journal) -> dict[str, Any]:
        for name, text in self.texts.items():
            with whole(self.folder / name) as file:
                file.write(text)
        shards = {shard.file: dict(notes.done[shard.file]) for shard in self.shards}
        for noted in shards.values():
            del noted["sources"]
        said = {
            "job": dict(self.identity),
            "shards": shards,
            "files": {name: hashlib.sha256(text).hexdigest() for name, text in self.texts.items()},
            **self.said(shards),
        }
        checksums.write(self.folder, said)
        return said


def kept(source: Path) -> dict[str, bytes]:
    """Read the small files of a checkpoint that its copy needs too.

    Raises `ArchsmithError` for a link that leads out of the folder, other than into a cache of
    Hugging Face's, and for what is no file.
    """
    found: dict[str, bytes] = {}
    for name in KEPT:
        path = source / name
        if not path.exists() and not path.is_symlink():
            continue
        real, folder = path.resolve(), source.resolve()
        cached = folder.parent.name == "snapshots" and real.parent == folder.parents[1] / "blobs"
        if not path.is_file() or not (real.parent == folder or cached):
            raise ArchsmithError(f"{path} is no file of this folder; copy it there")
        found[name] = path.read_bytes()
    return found


def empty(package: Any, dtype: Any) -> Any:
    """Make a package's model without memory for its parameters; dtype None is its own."""
    torch: Any = importlib.import_module("torch")
    with torch.device("meta"):
        return package.Model(package.Config() if dtype is None else package.Config(dtype=dtype))


def digest_of(found: Any, config: bytes) -> str:
    """A digest of a checkpoint's config, and of what its headers say of the tensors to read."""
    said = hashlib.sha256(config)
    for name, stored in found.stored.items():
        line = f"{name} {stored.file.name} {stored.dtype} {stored.shape} {stored.start}\n"
        said.update(line.encode())
    return said.hexdigest()


def copy(name: str, given: Any, view: Any) -> None:
    """Copy a tensor; raises `ArchsmithError` where rounding makes an infinity of a number."""
    torch: Any = importlib.import_module("torch")
    view.copy_(given)
    if view.dtype.itemsize == 1:  # scaled to what its dtype holds
        return
    narrower = torch.finfo(view.dtype).max < torch.finfo(given.dtype).max
    if narrower and (view.isinf() & given.isfinite()).any():
        dtype = str(view.dtype).removeprefix("torch.")
        raise ArchsmithError(f"{name} has larger numbers than {dtype}; convert to a wider dtype")


@contextmanager
def told() -> Iterator[None]:
    """Turn what a package raises of a checkpoint's files into an `ArchsmithError`."""
    try:
        yield
    except (ValueError, FileNotFoundError) as error:
        raise ArchsmithError(str(error)) from None
