"""What is done of a conversion: a line of JSON for the job, then one for each finished file."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import ArchsmithError
from .disk import sync

NAME = "convert.journal"


@dataclass
class Journal:
    """An open journal, which no other process can open."""

    file: BinaryIO
    done: dict[str, dict[str, Any]] = field(default_factory=dict)
    """What was noted of each finished file."""

    def add(self, name: str, noted: Mapping[str, Any]) -> None:
        """Note that a file is finished; when this returns, that is on the disk."""
        self.done[name] = dict(noted)
        self._write({"file": name, **noted})

    def _write(self, entry: Mapping[str, Any]) -> None:
        self.file.write(json.dumps(entry, sort_keys=True).encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())


@contextmanager
def opened(folder: Path, job: Mapping[str, Any]) -> Iterator[Journal]:
    """Open the journal of a folder, new or of the same job; at the end it is removed.

    Raises `ArchsmithError` where the folder holds what another job has begun, or where a process
    is at it. An exception leaves the journal, from which the job goes on when it is tried again.
    """
    with (folder / NAME).open("a+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise ArchsmithError(f"{folder} is being written by another conversion") from None
        journal = Journal(file)
        lines = _lines(file)
        if not lines:
            journal._write(job)
            sync(folder)
        elif lines[0] != job:
            unlike = sorted(key for key in job if lines[0].get(key) != job[key])
            raise ArchsmithError(
                f"{folder} holds an unfinished conversion with another"
                f" {' and another '.join(unlike)}; finish that one, or remove the folder"
            )
        journal.done = {line.pop("file"): line for line in lines[1:]}
        yield journal
        (folder / NAME).unlink()
        sync(folder)


def _lines(file: BinaryIO) -> list[dict[str, Any]]:
    """Read what was noted, and cut off a line that was being written when the power went."""
    file.seek(0)
    lines: list[dict[str, Any]] = []
    end = 0
    for line in file:
        if not line.endswith(b"\n"):
            break
        try:
            entry = json.loads(line)
        except ValueError:
            break
        if not isinstance(entry, dict) or (lines and "file" not in entry):
            break
        lines.append(entry)
        end += len(line)
    file.truncate(end)
    return lines
