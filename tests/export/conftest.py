"""Exported modules of the tiny examples, and IREE to run them."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.emit.export import Call, Exported
from package.tiny import EXAMPLES, Change, unchanged

EXPECTED = "ARCHSMITH_EXPECTS"
"""An environment variable: what must be installed where tests run, such as "mlir"."""
MODULES = ("torch_mlir", "iree.compiler", "iree.runtime")
Export = Callable[..., Exported]


def missing() -> list[str]:
    def there(module: str) -> bool:
        try:
            return importlib.util.find_spec(module) is not None
        except ModuleNotFoundError:  # its parent is not there
            return False

    return [module for module in MODULES if not there(module)]


@pytest.fixture(scope="session")
def tools() -> None:
    """What exports and runs MLIR: without it tests are skipped, but not where it is expected."""
    if absent := missing():
        reason = f"{', '.join(absent)} not installed; `pip install -e .[iree]`"
        if "mlir" in os.environ.get(EXPECTED, "").split(","):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def exporter() -> Compiler:
    """Passes are proved elsewhere, and the package by a test of its own."""
    return Compiler.installed("mlir", numeric=False)


@pytest.fixture
def export(exporter: Compiler, tmp_path: Path) -> Export:
    """Exports an example, or a changed one."""

    def make(example: str, change: Change = unchanged, **call: Any) -> Exported:
        page = tmp_path / f"{example}.yaml"
        page.write_text(change((EXAMPLES / f"{example}.yaml").read_text()))
        pipeline, passes = exporter.passes(None)
        spec = exporter.load(page)
        return exporter.export(spec, pipeline, passes, Call(**call), prove=False)

    return make
