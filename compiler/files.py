"""The files that the command line reads and writes, beside specs and packages."""

from __future__ import annotations

from pathlib import Path

from .errors import ArchsmithError, OutputError


def not_itself(source: Path, output: Path | None) -> None:
    """Raise `ArchsmithError` where a command would overwrite what it reads."""
    if output is not None and output.exists() and source.exists() and output.samefile(source):
        raise ArchsmithError(f"-o: {output} is what is read; name another file")


def read_text(path: Path) -> str:
    """The text of a file; raises `ArchsmithError` where it has none."""
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArchsmithError(f"{path} cannot be read: {error}") from None


def write_text(text: str, path: Path) -> None:
    """Write a file, and the folder that it stands in; raises `OutputError`."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error}") from None
