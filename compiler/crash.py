"""How a command ends badly: what is told of an error, and what a bug leaves to be reported."""

from __future__ import annotations

import platform
import shlex
import shutil
import tempfile
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from .errors import ArchsmithError

BUG = 70
DISK = 5


def outcome(error: Exception, command: Sequence[str]) -> tuple[str, int]:
    """What to tell of an exception, and the exit code; one that nobody raised is a bug."""
    if isinstance(error, ArchsmithError):
        text = str(error)
        if not text.startswith(("error", "warning")):  # as diagnostics do
            text = f"error: {text}"
        notes = getattr(error, "__notes__", ())
        return "\n".join([text, *(f"  = note: {note}" for note in notes)]), error.exit_code
    if isinstance(error, OSError):
        said = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        return f"error: {said}", DISK
    return report(command), BUG


def report(command: Sequence[str]) -> str:
    """Write a reproducer of the exception being handled; returns what to tell the user."""
    folder = Path(tempfile.mkdtemp(prefix="archsmith-bug-"))
    (folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
    line = shlex.join(["archsmith", *command[1:]])
    versions = f"archsmith {version('archsmith')}, Python {platform.python_version()}"
    (folder / "command.txt").write_text(f"{line}\n{versions}\n", encoding="utf-8")
    for argument in command[1:]:
        path = Path(argument)
        if path.is_file() and path.suffix in (".yaml", ".yml", ".json", ".ir"):
            shutil.copy(path, folder / path.name)
    last = traceback.format_exc().strip().splitlines()[-1]
    return (
        f"error: this is a bug in archsmith: {last}\n"
        f"  = help: please report it with the files in {folder}; the command was\n"
        f"    {line}"
    )
