"""The wheel: every file that is needed at run time is in it, and nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGES = ("compiler", "passes", "templates")
DATA = (".py", ".jinja", ".yaml", ".md", ".typed")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """Built from a copy, so that nothing is left in the tree."""
    root = Path(__file__).parents[2]
    source = tmp_path_factory.mktemp("source")
    for name in (*PACKAGES, "docs"):
        shutil.copytree(root / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (file,) = out.glob("*.whl")
    return zipfile.ZipFile(file)


def test_every_file_is_in_the_wheel(wheel: zipfile.ZipFile, root: Path) -> None:
    tree = {
        f"archsmith/{file.relative_to(root)}"
        for package in PACKAGES
        for file in (root / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {Path(name).suffix for name in tree} <= set(DATA)
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == tree


def test_the_wheel_has_its_entry_points_and_licence(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    (entries,) = (name for name in names if name.endswith("entry_points.txt"))
    text = wheel.read(entries).decode()
    assert "[archsmith.plugins]" in text
    assert "archsmith = archsmith.compiler.cli:main" in text
    assert any(name.endswith("/LICENSE") for name in names)
