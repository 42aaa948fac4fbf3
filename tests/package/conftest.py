"""Packages of the examples, each built once a session and imported."""

from __future__ import annotations

import importlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from archsmith.compiler.driver import Compiler
from package.quantized import MXFP4, SINGLE, experts_in_mxfp4, projections_in_float8, store
from package.tiny import EXAMPLES, Build, Change, fresh, tiny_gpt_oss, unchanged
from safetensors.torch import load_file

SECONDS = 20  # so long may one load take before it counts as a hang


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """What is computed here is tiny: threads would only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Build]:
    """Builds an example, or a changed one under another name, and imports the package."""
    root = tmp_path_factory.mktemp("packages")
    compiler = Compiler.installed(numeric=False)
    pipeline, passes = compiler.passes(None)
    made: dict[str, ModuleType] = {}

    def build(example: str, change: Change = unchanged, name: str = "") -> ModuleType:
        name = name or example.replace("-", "_")
        if name not in made:
            page = root / f"{name}.yaml"
            page.write_text(change((EXAMPLES / f"{example}.yaml").read_text()))
            compiler.package(compiler.load(page), root / name, pipeline, passes, prove=False)
            importlib.invalidate_caches()
            made[name] = importlib.import_module(name)
        return made[name]

    sys.path.insert(0, str(root))
    yield build
    sys.path.remove(str(root))


@pytest.fixture(params=["tiny-llama", "tiny-mixtral", "tiny-deepseek-v2", "tiny-deepseek-v3"])
def any_package(package: Build, request: pytest.FixtureRequest) -> ModuleType:
    """Grouped heads, a window, latent attention, and without or with experts of either kind."""
    return package(request.param)


@pytest.fixture
def checkpoint(package: Build, tmp_path: Path) -> tuple[ModuleType, Path]:
    """A DeepSeek-V2 package, and a folder with weights of it."""
    built = package("tiny-deepseek-v2")
    built.save(fresh(built, torch.float32), tmp_path / "checkpoint")
    return built, tmp_path / "checkpoint"


@pytest.fixture
def hostile(package: Build, tmp_path: Path) -> tuple[ModuleType, Path]:
    """A Llama package, and a folder whose projections are in float8, in two files and an index."""
    built, folder = package("tiny-llama"), tmp_path / "hostile"
    built.save(fresh(built, torch.bfloat16), folder)
    store(projections_in_float8(load_file(folder / SINGLE)), folder)
    return built, folder


@pytest.fixture
def hostile_mxfp4(package: Build, tmp_path: Path) -> tuple[ModuleType, Path]:
    """A package of gpt-oss, and a folder whose packed experts are in MXFP4."""
    built = package("gpt-oss-20b", tiny_gpt_oss, "tiny_gpt_oss")
    folder = tmp_path / "hostile"
    built.save(fresh(built, torch.bfloat16), folder)
    store(experts_in_mxfp4(load_file(folder / SINGLE)), folder, MXFP4)
    return built, folder


@pytest.fixture
def hang() -> Iterator[Callable[[], None]]:
    """Ends the test that does not call it again in time."""

    def late(*_: object) -> None:
        raise AssertionError(f"it did not end within {SECONDS} s")

    before = signal.signal(signal.SIGALRM, late)
    yield lambda: signal.alarm(SECONDS) and None
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)
