"""Models built from tiny checkpoints of `transformers`, as a user would."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.order import resolve
from models.tiny import Case, save


@pytest.fixture(scope="session")
def compiler() -> Compiler:
    """Passes are proved elsewhere: here the oracle judges what is emitted."""
    registry = Registry.installed()
    return Compiler(registry, registry.targets["cpu"], numeric=False)


@pytest.fixture
def build(
    compiler: Compiler, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., ModuleType]:
    """Import a configuration, build its package, and import that."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(
        configuration: Path, pipeline: str = "O2", name: str = "emitted", *, mtp: bool = False
    ) -> ModuleType:
        return built(compiler, configuration, pipeline, tmp_path / name, mtp=mtp)

    yield make
    forget("emitted")


@pytest.fixture(scope="session")
def first(
    compiler: Compiler, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[Case, str], tuple[ModuleType, Path, Any]]]:
    """A case's package by a pipeline, its checkpoint and its reference, for several tests.

    The reference is in float64, and nobody's own: it stays as it is.
    """
    root = tmp_path_factory.mktemp("first")
    packages: dict[str, ModuleType] = {}
    references: dict[Path, Any] = {}
    sys.path.insert(0, str(root))

    def make(case: Case, pipeline: str) -> tuple[ModuleType, Path, Any]:
        folder = root / str(case)
        if folder not in references:
            references[folder] = save(case, folder)
        name = re.sub(r"\W", "_", f"first_{case}_{pipeline}")
        if name not in packages:
            packages[name] = built(compiler, folder, pipeline, root / name)
        return packages[name], folder, references[folder]

    yield make
    sys.path.remove(str(root))
    forget("first_")


def built(
    compiler: Compiler, configuration: Path, pipeline: str, folder: Path, *, mtp: bool = False
) -> Any:
    """The package of a configuration, imported from a folder that Python looks in."""
    text, _ = compiler.read_configuration(configuration, "model", mtp=mtp)
    page = folder.with_suffix(".yaml")
    page.write_text(text)
    passes = resolve(pipeline, compiler.registry.passes, compiler.registry.pipelines)
    compiler.package(compiler.load(page), folder, pipeline, passes, prove=False)
    return imported(folder.name)


def forget(prefix: str) -> None:
    for loaded in [module for module in sys.modules if module.startswith(prefix)]:
        del sys.modules[loaded]


def imported(name: str) -> Any:
    importlib.invalidate_caches()
    return importlib.import_module(name)
