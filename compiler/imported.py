"""A built package, imported from its folder into this process."""

from __future__ import annotations

import importlib
import sys
import traceback
from pathlib import Path
from typing import Any

from .errors import ArchsmithError, EnvironmentMissing

FLOATING = ("float32", "bfloat16", "float16", "float64")


def imported(folder: Path) -> Any:
    """Import the package in a folder, and torch before it.

    Raises `ArchsmithError` where there is none or where it cannot be imported, and
    `EnvironmentMissing` without torch.
    """
    folder = folder.resolve()
    if not (folder / "model.py").is_file():
        raise ArchsmithError(f"{folder} holds no package; `archsmith build` makes one")
    try:
        importlib.import_module("torch")
    except ImportError as error:
        raise EnvironmentMissing(f"running a package needs torch: {error}") from None
    sys.path.insert(0, str(folder.parent))
    try:
        return importlib.import_module(folder.name)
    except Exception as error:  # the package's code is its owner's
        raise ArchsmithError(f"{folder} cannot be imported: {told(error)}") from error
    finally:
        sys.path.remove(str(folder.parent))


def told(error: Exception) -> str:
    """Return an exception and the line that raised it."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} (line {last.lineno} of {last.filename})"


def floating(name: str | None) -> Any:
    """Return torch's floating dtype of a name, None for None. Raises `ArchsmithError`."""
    if name is None:
        return None
    if name not in FLOATING:
        known = ", ".join(FLOATING[:-1])
        raise ArchsmithError(f"--dtype is {known} or {FLOATING[-1]}, not {name!r}")
    return getattr(importlib.import_module("torch"), name)
