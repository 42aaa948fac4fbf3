"""Who may import whom, and what is imported when."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGES = ("compiler", "passes", "templates")


def test_import_contracts_hold(root: Path) -> None:
    lint = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run(
        [str(lint), "--no-cache"], cwd=root, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Contracts: 4 kept, 0 broken." in done.stdout


def loaded(code: str) -> set[str]:
    """The modules that a fresh interpreter has loaded after `code`."""
    script = f"{code}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


EVERYTHING = """
import importlib, pkgutil, archsmith.compiler
for module in pkgutil.walk_packages(archsmith.compiler.__path__, "archsmith.compiler."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
"""


def test_the_compiler_imports_no_torch_and_no_plugin(root: Path) -> None:
    modules = loaded(EVERYTHING)
    files = [f for f in (root / "compiler").rglob("*.py") if f.name != "__main__.py"]
    ours = {name for name in modules if name.startswith("archsmith.compiler")}
    assert len(ours) == len(files)
    for name in ("torch", "triton", "transformers", "archsmith.passes", "archsmith.templates"):
        assert name not in modules


def test_plugins_import_no_torch_either() -> None:
    modules = loaded("from archsmith.compiler.plugins import Registry; Registry.installed()")
    assert {"archsmith.passes.fuse_gate_up", "archsmith.templates.kernels.linear"} <= modules
    assert not {"torch", "triton", "transformers"} & modules


def test_the_command_line_starts_light() -> None:
    modules = loaded("import archsmith.compiler.cli")
    assert not {"torch", "networkx", "numpy", "jinja2", "pydantic"} & modules


@pytest.mark.parametrize("package", PACKAGES)
def test_imports_are_relative_inside(root: Path, package: str) -> None:
    """The folders' own names are no packages, so an absolute import of one is a mistake."""
    for file in (root / package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level == 0:
                head = str(node.module).partition(".")[0]
                assert head not in (*PACKAGES, "archsmith"), f"{file}: from {node.module}"


def test_plugins_are_imported_only_when_they_are_asked_for() -> None:
    modules = loaded("from archsmith.compiler.plugins import Registry; Registry()")
    assert "archsmith.compiler.plugins" in modules
    assert not {"archsmith.compiler.components.gqa", "archsmith.passes", "numpy"} & modules
