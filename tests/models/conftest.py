"""Models built from tiny checkpoints of `transformers`, as a user would."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.order import resolve


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

    def make(configuration: Path, pipeline: str = "O2", name: str = "emitted") -> ModuleType:
        text, _ = compiler.read_configuration(configuration, "model")
        page = tmp_path / f"{name}.yaml"
        page.write_text(text)
        passes = resolve(pipeline, compiler.registry.passes, compiler.registry.pipelines)
        compiler.package(compiler.load(page), tmp_path / name, pipeline, passes, prove=False)
        return imported(name)

    yield make
    for loaded in [module for module in sys.modules if module.startswith("emitted")]:
        del sys.modules[loaded]


def imported(name: str) -> Any:
    importlib.invalidate_caches()
    return importlib.import_module(name)
