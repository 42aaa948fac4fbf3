"""What a bug leaves behind: a folder with what is needed to report and to repeat it."""

from __future__ import annotations

import platform
import shlex
import shutil
import tempfile
import traceback
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path


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
