"""A package, a checkpoint of it in files, and the folder that it is converted to."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from archsmith.compiler.convert.checkpoint import ToCheckpoint
from archsmith.compiler.convert.job import Job
from archsmith.compiler.convert.layout import ToLayout
from archsmith.compiler.driver import Compiler
from archsmith.compiler.imported import imported
from package.tiny import EXAMPLES, Change, fresh, unchanged

SHARD = 450_000  # bytes: five files
Convert = Callable[..., dict[str, Any]]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., ModuleType]:
    """Builds an example, or a changed one, with a pipeline, once, and imports it."""
    root = tmp_path_factory.mktemp("converted")
    compiler = Compiler.installed(numeric=False)

    def build(example: str, pipeline: str = "O2", change: Change = unchanged) -> ModuleType:
        folder = root / f"{example}_{pipeline}".replace("-", "_").replace(",", "_")
        if not folder.exists():
            _, passes = compiler.passes(pipeline)
            page = root / f"{folder.name}.yaml"
            page.write_text(change((EXAMPLES / f"{example}.yaml").read_text()))
            compiler.package(compiler.load(page), folder, pipeline, passes, prove=False)
        package: ModuleType = imported(folder)
        return package

    return build


@pytest.fixture(scope="session")
def package(built: Callable[[str], ModuleType]) -> ModuleType:
    """DeepSeek-V3's shape: experts, a bias in float32, rows in another order, weights split."""
    return built("tiny-deepseek-v3")


@pytest.fixture(scope="session")
def checkpoint(package: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of it, in several files."""
    folder = tmp_path_factory.mktemp("source") / "checkpoint"
    package.save(fresh(package, torch.bfloat16), folder, shard_bytes=SHARD)
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    return folder


@pytest.fixture(scope="session")
def whole(package: Any, checkpoint: Path) -> Path:
    """The folder that an uninterrupted conversion makes."""
    folder = checkpoint.with_name("whole")
    convert(package, checkpoint, folder)
    return folder


def convert(package: Any, source: Path, folder: Path, **options: Any) -> dict[str, Any]:
    """Convert to a package's layout; returns what the checksums say."""
    return run(ToLayout(package, source, folder, options.get("dtype"), SHARD))


def restore(package: Any, source: Path, folder: Path, **options: Any) -> dict[str, Any]:
    """Convert back to a checkpoint."""
    return run(ToCheckpoint(package, source, folder, options.get("dtype"), SHARD))


def run(job: Job) -> dict[str, Any]:
    job.begin()
    return job.run(lambda count: None)


def held(folder: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}
