"""What is said where a module cannot be exported: stand-ins for torch-mlir fail as it does."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from archsmith.compiler.cli import main
from archsmith.compiler.driver import Compiler
from archsmith.compiler.emit.export import Call
from archsmith.compiler.errors import ArchsmithError, EnvironmentMissing, ExportError
from click.testing import CliRunner
from package.tiny import EXAMPLES

from .conftest import Export

CRASH = "import os, signal\ndef export_and_import(*a, **k): os.kill(os.getpid(), signal.SIGSEGV)\n"
REFUSAL = """
class TorchMlirCompilerError(Exception): ...

def export_and_import(*a, **k):
    raise TorchMlirCompilerError('''Lowering failed with the following diagnostics:
error: failed to legalize operation 'torch.aten.scatter.value'
note: see current operation''')
"""

DEPENDS = r"^torch\.export cannot .*data-dependent.*\n  in kernels/experts\.py, line \d+\n"


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a `torch_mlir` that is imported in place of one that is installed."""
    package = tmp_path / "path" / "torch_mlir"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    path = os.environ.get("PYTHONPATH")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(package.parent), *([path] if path else [])])
    )
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return package


def left(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("archsmith-reproducer-*"))


def test_torch_mlir_that_is_not_there(stand_in: Path, export: Export, tmp_path: Path) -> None:
    (stand_in / "__init__.py").write_text("raise ImportError('no torch_mlir for this Python')")
    with pytest.raises(EnvironmentMissing, match=r"no torch_mlir for .*\n.*archsmith\[mlir\]") as e:
        export("tiny-llama", tokens=2)
    assert e.value.exit_code == 4
    assert not left(tmp_path)


def test_a_crash_of_the_process(stand_in: Path, export: Export, tmp_path: Path) -> None:
    (stand_in / "fx.py").write_text(CRASH)
    with pytest.raises(ExportError, match=r"^torch-mlir was ended by SIGSEGV\n") as caught:
        export("tiny-llama", tokens=2)
    assert caught.value.exit_code == 3
    (folder,) = left(tmp_path)
    assert str(folder) in caught.value.__notes__[0]
    assert "aten" in (folder / "graph.txt").read_text()
    assert (folder / "exported" / "model.py").is_file()


def test_an_op_that_is_not_lowered(stand_in: Path, export: Export) -> None:
    (stand_in / "fx.py").write_text(REFUSAL)
    with pytest.raises(
        ExportError, match=r"^torch-mlir cannot .*prefill: error: .*scatter\.value'\n"
    ):
        export("tiny-llama", tokens=2)


def test_a_package_that_is_not_traced(
    stand_in: Path, export: Export, exporter: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Experts as a processor runs them: how many rows each has depends on values."""
    (stand_in / "fx.py").write_text("")
    untraced = replace(exporter, target=exporter.registry.targets["cpu"])
    page = EXAMPLES / "tiny-mixtral.yaml"
    pipeline, passes = untraced.passes(None)
    with pytest.raises(ExportError, match=DEPENDS):
        untraced.export(untraced.load(page), pipeline, passes, Call(tokens=4), prove=False)


def test_a_checkpoint_of_another_model(stand_in: Path, export: Export, tmp_path: Path) -> None:
    (stand_in / "fx.py").write_text("")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArchsmithError) as caught:
        export("tiny-llama", tokens=2, weights=tmp_path / "empty")
    assert caught.value.exit_code == 1
    assert str(tmp_path / "empty") in str(caught.value)
    assert not left(tmp_path)


@pytest.mark.parametrize(("batch", "tokens"), [(0, 4), (1, 0), (1, 257)])
def test_a_call_that_is_none(batch: int, tokens: int, export: Export) -> None:
    with pytest.raises(ArchsmithError, match=r"one row or more, of 1 to 256 tokens"):
        export("tiny-llama", batch=batch, tokens=tokens)


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--json"], 2, "-o must say where"),
        (["--weights", "nowhere"], 1, "--weights nowhere is no folder"),
        (["-o", "SPEC"], 1, "is what is read"),
        (["--to", "onnx"], 2, "'onnx' is not 'mlir'"),
    ],
)
def test_a_command_that_cannot_be_done(
    options: list[str], code: int, said: str, tmp_path: Path
) -> None:
    page = tmp_path / "model.yaml"
    page.write_text((EXAMPLES / "tiny-llama.yaml").read_text())
    given = [str(page) if option == "SPEC" else option for option in options]
    done = CliRunner().invoke(main, ["export", str(page), "--to", "mlir", *given])
    assert done.exit_code == code
    assert said in done.stderr
    assert done.stdout == ""
    assert page.read_text() == (EXAMPLES / "tiny-llama.yaml").read_text()
