"""The emitted kernels of two models, as they were last agreed, and clean for any.

`pytest tests/emit/test_golden_gpu.py --update-golden` writes them anew.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.emit.package import Facts, emit
from archsmith.compiler.emit.write import write
from emit.test_golden import EXAMPLES, GPU, NO_EXAMPLES, is_clean
from kernels.checks import registry
from kernels.test_early_launches import IN_8_BITS, planned

# A chip each of two makers; latent attention with experts, and grouped heads in float32.
CASES = [("deepseek-v2-lite", "h200"), ("tiny-llama", "mi300x")]
OTHERS = [
    ("deepseek-v3", "b200"),
    ("mixtral-8x7b", "a100"),
    ("qwen3-30b-a3b", "h100"),
    ("tiny-mixtral", "mi300x"),
    ("tiny-qwen3-moe", "b200"),
    ("tiny-mtp", "h200"),
    ("gemma-2-9b", "h200"),
]


def emitted(example: str, target: str, folder: Path) -> Path:
    compiler = Compiler.installed(target, numeric=False)
    pipeline, passes = compiler.passes("O2")
    spec = compiler.load(NO_EXAMPLES.get(example, EXAMPLES / f"{example}.yaml"))
    compiler.package(spec, folder / "package", pipeline, passes, prove=False)
    return folder / "package"


def own(folder: Path) -> dict[str, str]:
    """What a package for a GPU has that others have not, and its model's lines."""
    files = [*folder.glob("kernels/*.py"), folder / "tests" / "on_gpu.py", folder / "model.py"]
    return {path.relative_to(folder).as_posix(): path.read_text() for path in files}


@pytest.mark.parametrize(("example", "target"), CASES)
def test_emitted_kernels(
    example: str, target: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    package = emitted(example, target, tmp_path)
    files = own(package)
    root = GPU / f"{example}-{target}"
    if request.config.getoption("--update-golden"):
        for path, text in files.items():
            file = root / f"{path}.txt"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    kept = {file.relative_to(root).as_posix() for file in root.rglob("*.txt")}
    assert kept == {f"{path}.txt" for path in files}
    for path, text in files.items():
        assert text == (root / f"{path}.txt").read_text(), path
    assert {folder.name for folder in GPU.iterdir()} == {f"{e}-{t}" for e, t in CASES}
    is_clean(package)


@pytest.mark.parametrize(("example", "target"), OTHERS)
def test_emitted_kernels_are_clean(example: str, target: str, tmp_path: Path) -> None:
    is_clean(emitted(example, target, tmp_path))


def test_emitted_kernels_in_8_bits_are_clean(tmp_path: Path) -> None:
    plan, templates = planned("deepseek-v3", IN_8_BITS), registry().templates
    write(tmp_path / "package", emit(plan, templates, Facts("0", 1, 1, 1, "h200", "O2", {})))
    is_clean(tmp_path / "package")
