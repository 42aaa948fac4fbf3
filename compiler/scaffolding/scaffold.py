"""A plugin of one's own, to begin with: a distribution that installs, and whose tests pass."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from ..emit.environment import render
from ..emit.values import Name, Prose
from ..errors import ArchsmithError
from ..files import write_text
from ..plugins import API, Registry

_NAME = re.compile(r"[a-z]+(-[a-z0-9]+)+")
_LONGEST = 60


def scaffold(name: str, registry: Registry) -> dict[str, str]:
    """The files of a distribution with one pass, by their paths; what it does is to be replaced.

    Raises `ArchsmithError` for a name that no pass can have, or that is taken.
    """
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise ArchsmithError(
            f"no pass can be called {name!r}\n"
            "  = help: a verb and what it is done to, in lower case: fuse-scales"
        )
    stem = name.replace("-", "_")
    package = f"archsmith_{stem}"
    taken = {("passes", name): "a pass", ("pipelines", name): "a pipeline"}
    for key, what in taken.items():
        if key in registry.origins:
            raise ArchsmithError(
                f"{name} is taken: {registry.origins[key]} has {what} of that name"
            )
    if find_spec(package) is not None:
        raise ArchsmithError(f"{name} is taken: {package} is installed")
    values = {
        "name": Prose(name),
        "stem": Name(stem),
        "package": Name(package),
        "class_name": Name("".join(word.capitalize() for word in name.split("-"))),
        "api": API,
    }
    paths = {
        "pyproject.toml": "pyproject.toml",
        "README.md": "README.md",
        "package.py": f"src/{package}/__init__.py",
        "pass.py": f"src/{package}/{stem}.py",
        "pass.ir": f"tests/{stem}.ir",
        "test.py": f"tests/test_{stem}.py",
    }
    here = files(__package__)
    return {
        path: render(
            (here / f"{template}.jinja").read_text(encoding="utf-8"),
            values,
            python=path.endswith(".py"),
        )
        for template, path in paths.items()
    }


def write(folder: Path, texts: dict[str, str]) -> None:
    """Write the files into a folder that is new or empty; raises `ArchsmithError` otherwise."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ArchsmithError(f"{folder} is there already; -o names a folder that is new or empty")
    for path, text in texts.items():
        write_text(text, folder / path)
