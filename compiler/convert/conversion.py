"""What the command line asks of conversions: one job from begin to end, and proof of a folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from ..errors import ArchsmithError, DamagedError
from ..imported import floating, imported
from . import checksums
from .checkpoint import ToCheckpoint
from .job import Job, told
from .layout import ToLayout

SAMPLE = 2**28
"""Bytes that are read to say how long it will take."""
LISTED = 20
"""How many tensors a message names."""


class Progress(Protocol):
    """Somebody who watches bytes go by."""

    def begin(self, doing: str, total: int) -> None: ...

    def advance(self, count: int) -> None: ...


@dataclass(frozen=True)
class Report:
    """What a conversion did, or would do; all but `seconds` in bytes.

    memory   of tensors, at most, beside some 250 MB for Python and torch
    changed  of a checkpoint that is made: the tensors that came in another dtype, with both
    rounded  of a layout that is made: the tensors that are wider than what is made of them
    unread   of the first checkpoint: the tensors that the model has no use for
    already  all was there, and nothing was read or written
    """

    folder: str
    files: int
    read: int
    written: int
    memory: int
    free: int
    seconds: float | None = None
    changed: Mapping[str, str] = field(default_factory=dict)
    rounded: Mapping[str, str] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    already: bool = False

    def json(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        """Lines for people."""
        moved = f"{size(self.read)} in, {size(self.written)} out in {self.files} files"
        lines = [f"{self.folder}{' (there already)' if self.already else ''}: {moved}"]
        if self.seconds is not None:
            lines = [
                f"{self.folder} (nothing written): {moved}",
                f"  memory: {size(self.memory)} for tensors, and some 250 MB for torch",
                f"  disk: {size(self.free)} are free",
                f"  time: about {self.seconds:,.0f} s, if it writes as fast as it reads",
            ]
        for what, names in (
            ("not in the dtype that they came in", [f"{k} ({v})" for k, v in self.changed.items()]),
            ("rounded to a narrower dtype", [f"{k} ({v})" for k, v in self.rounded.items()]),
            ("not used by the model, and left out", list(self.unread)),
        ):
            if names:
                more = f", and {len(names) - LISTED} more" if len(names) > LISTED else ""
                lines.append(f"  {what}: {', '.join(names[:LISTED])}{more}")
        return "\n".join(lines)


def convert(
    source: Path,
    folder: Path,
    *,
    package: Path,
    to_hf: bool,
    dtype: str | None,
    shard_bytes: int,
    dry_run: bool,
    progress: Progress,
) -> Report:
    """Do a conversion, go on with it, or say what it would take. Raises as `Job.run` does."""
    if not source.is_dir():
        raise ArchsmithError(f"{source} is no folder with a checkpoint")
    if folder.resolve() in (source.resolve(), package.resolve()):
        raise ArchsmithError(f"{folder} is what is read; name a new folder")
    module = imported(package)
    if not hasattr(module, "formats"):
        raise ArchsmithError(f"{package} was built by an earlier archsmith; build it again")
    kind = ToCheckpoint if to_hf else ToLayout
    job: Job = kind(module, source, folder, floating(dtype), shard_bytes)
    job.begin()
    cost = job.cost()
    changed: Mapping[str, str] = {}
    seconds = None
    if dry_run:
        seconds = (cost.read + cost.written) / _rate(job)
        said: Mapping[str, Any] = {}
    else:
        progress.begin(f"writing {folder}", job.size)
        with told():
            said = job.run(progress.advance)
        changed = said.get("changed", {})
    return Report(
        str(folder),
        len(job.shards),
        *cost,
        seconds,
        changed,
        job.rounded,
        tuple(said.get("unread", ())),
        already=not dry_run and job.done is not None,
    )


def verify(folder: Path, source: Path | None, progress: Progress) -> int:
    """Compare a folder with its checksums; returns how many tensors it has.

    Raises `DamagedError` that names every file and tensor that differs.
    """
    if not folder.is_dir():
        raise ArchsmithError(f"{folder} is no folder")
    said = checksums.read(folder)
    progress.begin(f"reading {folder}", sum(shard["size"] for shard in said["shards"].values()))
    wrong = list(checksums.damages(folder, said, progress.advance))
    if source is not None:
        wrong += checksums.differences(source, said, progress.advance)
    if wrong:
        raise DamagedError(
            "\n".join([f"{folder} is not what was written", *(f"  {w}" for w in wrong)])
        )
    return sum(len(shard["tensors"]) for shard in said["shards"].values())


def size(count: int) -> str:
    """Return a number of bytes as people read it."""
    return f"{count / 1e9:,.2f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"


def _rate(job: Job) -> float:
    """How many bytes a second are read and digested here."""
    read, start = 0, time.perf_counter()
    for name, parts in job.sources.found.tensors.items():
        with told():
            job.sources.read(name)
        read += sum(stored.size for stored in parts.values())
        if read > SAMPLE:
            break
    return max(read, 1) / (time.perf_counter() - start)
