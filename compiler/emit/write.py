"""Writing a package: staged beside its place and exchanged whole; what its owner edited is kept."""

from __future__ import annotations

import ctypes
import hashlib
import json
import keyword
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from ..errors import ArchsmithError, OutputError

GRAPH = "graph.ir"
PLAN = "plan.json"
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_AT_FDCWD = -100


class EditedError(ArchsmithError):
    """Files that a build would overwrite are not as archsmith wrote them."""

    def __init__(self, folder: Path, edited: list[str]) -> None:
        super().__init__(
            f"{folder} holds files that were edited, or that archsmith did not write:\n"
            + "\n".join(f"  {path}" for path in edited)
            + "\n  = help: move your changes elsewhere, or build with --force to overwrite them"
        )
        self.edited = edited


def check_name(folder: Path) -> None:
    """Raise `ArchsmithError` where a folder's base name cannot be imported as a package."""
    name = folder.name
    if keyword.iskeyword(name):
        why = "is a word of Python"
    elif not name.isidentifier() or not name.isascii():
        why = "is no identifier"
    elif name in sys.stdlib_module_names or name in ("torch", "triton", "safetensors", "archsmith"):
        why = "would hide a module of that name"
    else:
        return
    raise ArchsmithError(
        f"a package cannot be called {name!r}: it {why}\n"
        "  = help: the folder's name is what `import` uses; try letters, digits and _"
    )


def digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def changes(folder: Path, files: Mapping[str, str]) -> dict[str, str]:
    """What writing would do to each file: "new", "same", "changed", "removed" or "edited"."""
    known = _written(folder)
    result = {}
    for path, text in files.items():
        there = _read(folder / path)
        if there is None:
            result[path] = "new"
        elif there == text:
            result[path] = "same"
        elif path == PLAN and known:
            result[path] = "changed"
        else:
            result[path] = "changed" if known.get(path) == digest(there) else "edited"
    for path, hashed in known.items():
        there = _read(folder / path)
        if path not in files and there is not None:
            result[path] = "removed" if digest(there) == hashed else "edited"
    return result


def write(folder: Path, files: Mapping[str, str], *, force: bool = False) -> dict[str, str]:
    """Put a package in its place, whole or not at all; returns what `changes` does.

    Raises `EditedError` for files that the owner edited, unless `force`; `OutputError` where the
    disk or a permission says no. All other files of the folder stay.
    """
    check_name(folder)
    try:
        if folder.exists() and not folder.is_dir():
            raise ArchsmithError(f"{folder} is a file; a package is a folder")
        done = changes(folder, files)
        edited = [path for path, what in done.items() if what == "edited"]
        if edited and not force:
            raise EditedError(folder, edited)
        new = [place for place in folder.absolute().parents if not place.exists()]
        folder.parent.mkdir(parents=True, exist_ok=True)
        _sweep(folder)
        stage = folder.parent / f".{folder.name}.archsmith-{os.getpid()}"
        stage.mkdir()
        try:
            gone = {path for path, what in done.items() if what in ("removed", "edited")}
            _keep(folder, stage, set(files) | gone)
            for path, text in files.items():
                _put(stage / path, text)
            # All at once: to wait for the disk takes longer than to write.
            for path in files:
                _sync(stage / path)
            for inside, *_ in os.walk(stage):  # those of what the owner keeps too
                _sync(Path(inside))
            _exchange(stage, folder)
            for above in new:
                _sync(above.parent)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        raise OutputError(f"{folder} could not be written: {error}") from error
    return done


def _written(folder: Path) -> dict[str, str]:
    """The files that archsmith last wrote here, with their hashes."""
    text = _read(folder / PLAN)
    try:
        files = json.loads(text)["files"] if text else {}
        return {str(path): str(hashed) for path, hashed in files.items() if _inside(str(path))}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _inside(path: str) -> bool:
    """Whether a path from a file stays in its folder."""
    return not Path(path).is_absolute() and ".." not in Path(path).parts


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8") if path.is_file() else None
    except UnicodeDecodeError:
        return ""


def _keep(folder: Path, stage: Path, ours: set[str]) -> None:
    """Link the owner's other files into the stage; the old folder's mode too."""
    if not folder.is_dir():
        return
    shutil.copymode(folder, stage)
    for root, folders, names in os.walk(folder):
        there = Path(root).relative_to(folder)
        for name in list(folders):
            if (Path(root) / name).is_symlink():
                folders.remove(name)
                names.append(name)
            elif name != "__pycache__":
                (stage / there / name).mkdir(exist_ok=True)
                shutil.copymode(Path(root) / name, stage / there / name)
        if "__pycache__" in folders:
            folders.remove("__pycache__")
        for name in names:
            if (there / name).as_posix() not in ours:
                _link(Path(root) / name, stage / there / name)


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError:  # a file system without links
        shutil.copy2(source, target, follow_symlinks=False)


def _put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8", newline="\n")


def _sync(path: Path) -> None:
    """Let a file, or the names in a folder, be on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _exchange(stage: Path, folder: Path) -> None:
    """Let the two folders change places at once; what was there is then the stage."""
    if not folder.exists():
        stage.rename(folder)
    elif not _renameat2(stage, folder):
        # Without the system call there is a moment in which neither stands there.
        aside = stage.with_name(f"{stage.name}-old")
        folder.rename(aside)
        stage.rename(folder)
        shutil.rmtree(aside)
    _sync(folder.parent)


def _renameat2(one: Path, other: Path) -> bool:
    exchange = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if exchange is None:
        return False
    done = exchange(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE)
    return bool(done == 0)


def _sweep(folder: Path) -> None:
    """Remove the stages that killed builds left behind."""
    prefix = f".{folder.name}.archsmith-"
    for stage in folder.parent.glob(f"{prefix}*"):
        process = stage.name.removeprefix(prefix)
        if process.isdigit() and not Path(f"/proc/{process}").exists():
            shutil.rmtree(stage, ignore_errors=True)
