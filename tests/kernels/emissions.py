"""Files of kernels, written and imported: the last packages of many."""

from __future__ import annotations

import importlib
import sys
import tempfile
from functools import cache
from pathlib import Path
from types import ModuleType

Files = tuple[tuple[str, str], ...]
MOST = 100  # packages that are loaded at a time


@cache
def _packages() -> tempfile.TemporaryDirectory[str]:
    """Is removed with the process: the interpreter reads a kernel's source when it runs it."""
    return tempfile.TemporaryDirectory(prefix="archsmith-kernels-")


@cache
def _imported() -> dict[tuple[Files, str], ModuleType]:
    """The last packages that were imported, by their files; they are few, since Hypothesis looks
    for constants in all modules that are loaded."""
    return {}


def imported(files: Files, stem: str) -> ModuleType:
    """The module `stem` of a package of these files, by their stems."""
    made = _imported()
    if (key := (files, stem)) not in made:
        if len(made) == MOST:
            oldest = made.pop(next(iter(made))).__package__
            for loaded in [name for name in sys.modules if name.partition(".")[0] == oldest]:
                del sys.modules[loaded]
        made[key] = _import(files, stem)
    return made[key]


def _import(files: Files, stem: str) -> ModuleType:
    root = Path(_packages().name)
    package = Path(tempfile.mkdtemp(prefix="kernels_", dir=root))
    (package / "__init__.py").touch()
    for file, text in files:
        (package / f"{file}.py").write_text(text)
    sys.path.insert(0, str(root))
    try:
        importlib.invalidate_caches()
        return importlib.import_module(f"{package.name}.{stem}")
    finally:
        sys.path.remove(str(root))
