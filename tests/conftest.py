"""What all tests share: the installed plugins, and settings that make every run the same."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

# Probes and tiny models are small: threads cost more than they give, above all where several
# processes have them. NumPy and PyTorch read this as they are imported, here and in children.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Kernels run in Triton's interpreter here, which reads these as it is imported, and compile in
# processes of their own.
os.environ["TRITON_INTERPRET"] = "1"
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.packaged import Packaged, packaged
from archsmith.compiler.plugins import Registry
from hypothesis import HealthCheck, settings

# What is imported stays: to look through it for what may be freed took a tenth of the time.
gc.set_threshold(100_000, 50, 100)

settings.register_profile(
    "same",
    max_examples=10,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("same")


@pytest.fixture(scope="session")
def registry() -> Registry:
    """Everything installed, the example plugin included."""
    return Registry.installed()


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def tuned_llama(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Packaged:
    """A small package for an H200, of which nobody edits a file."""
    folder = tmp_path_factory.mktemp("tuning") / "tuned_llama"
    compiler = Compiler.installed("h200", numeric=False)
    name, passes = compiler.passes("O2")
    spec = compiler.load(root / "examples" / "tiny-llama.yaml")
    compiler.package(spec, folder, name, passes, prove=False)
    return packaged(folder)


@pytest.fixture(scope="session")
def trained(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a package, `small_deepseek_v3`, and a `checkpoint` that was trained a little.

    It is made as a user would; `told.txt` holds what was printed.
    """
    out = tmp_path_factory.mktemp("trained")
    documents = sorted((root / "docs").rglob("*.md"))
    (out / "text.txt").write_text("\n".join(page.read_text() for page in documents))
    command = [sys.executable, root / "examples" / "train.py", "--no-proof", "--rows", "4"]
    command += ["--steps", "12", "--out", out, "--text", out / "text.txt"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (out / "told.txt").write_text(done.stdout)
    return out


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write tests/golden anew")
    parser.addoption("--update-ahead", action="store_true", help="compile, and keep the facts")
    parser.addoption("--examples", type=int, help="so many random examples, other ones each time")


def pytest_configure(config: pytest.Config) -> None:
    """Before tests are read: those that say no number of examples take it from here."""
    if examples := config.getoption("--examples"):
        same = settings.get_profile("same")
        settings.register_profile(
            "fuzz", same, derandomize=False, max_examples=examples, print_blob=True
        )
        settings.load_profile("fuzz")
