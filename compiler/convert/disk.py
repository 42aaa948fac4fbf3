"""Writing files so that, whatever interrupts it, a file under its own name is whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"


@contextmanager
def whole(path: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name when all is written and on the disk, and not before."""
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("wb") as file:
        yield file
        settle(file)
    os.replace(partial, path)
    sync(path.parent)


def settle(file: BinaryIO) -> None:
    """Wait until what was written is on the disk, and have the system forget it."""
    file.flush()
    os.fsync(file.fileno())
    forget(file, 0, 0)


def forget(file: BinaryIO, start: int, size: int) -> None:
    """Have the system give up memory in which it keeps what was read or written; 0 is to the end.

    Else a checkpoint that passes by would take the place of everything that is kept for a reason.
    """
    os.posix_fadvise(file.fileno(), start, size, os.POSIX_FADV_DONTNEED)


def sync(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, as `fsync` of a file does not."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)
