"""`archsmith new`: what it writes installs, is found, and passes its own tests right away."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from archsmith.compiler.cli import main
from click.testing import CliRunner, Result


def new(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["new", "pass", *map(str, arguments)])


def command(folder: Path, *arguments: str, path: Path | None = None) -> tuple[int, str]:
    """Run Python in a folder, with another on its path; the exit code, and all that it says."""
    # What pytest says of this run, such as that it is one of several, does not hold of that one.
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    written = tmp_path_factory.mktemp("new") / "mine"
    result = new("fuse-two-scales", "-o", written)
    assert (result.exit_code, result.stdout) == (0, ""), result.stderr
    return written


@pytest.fixture(scope="module")
def installed(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Installed by pip from a copy of it, so that the folder stays as it was written."""
    target, source = tmp_path_factory.mktemp("installed"), tmp_path_factory.mktemp("copy") / "mine"
    shutil.copytree(folder, source)
    pip = ["-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    code, said = command(folder.parent, *pip, "--target", str(target), str(source))
    assert code == 0, said
    return target


def test_it_passes_its_own_tests(folder: Path) -> None:
    code, said = command(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert code == 0, said
    assert "4 passed" in said


def test_it_is_installed_and_works(installed: Path, tmp_path: Path) -> None:
    compiler = ("-m", "archsmith.compiler")
    code, said = command(tmp_path, *compiler, "list", "passes", path=installed)
    assert code == 0, said
    assert "\nfuse-two-scales " in said
    page = Path(__file__).parents[2] / "examples" / "tiny-llama.yaml"
    words = ["graph", str(page), "--pipeline", "eliminate-dead,fuse-two-scales"]
    code, said = command(tmp_path, *compiler, *words, path=installed)
    assert code == 0, said


@pytest.mark.parametrize(
    ("file", "old", "wrong", "says"),
    [
        ("src", "first.factor * second.factor)", "first.factor + second.factor)", "differs by"),
        ("src", "return f", "return None and f", "made"),
        ("src", "return op.scale(op.scale", "return op.softcap(op.scale", "and not"),
        ("tests", "because: %h is", "because: %h was", "does not say '%h was"),
    ],
)
def test_its_tests_can_fail(
    folder: Path, tmp_path: Path, file: str, old: str, wrong: str, says: str
) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            copy = tmp_path / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(path.read_bytes())
    pattern = "src/*/fuse_two_scales.py" if file == "src" else "tests/*.ir"
    (broken,) = tmp_path.glob(pattern)
    assert broken.read_text().count(old) >= 1
    broken.write_text(broken.read_text().replace(old, wrong))
    code, said = command(tmp_path, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert code == 1, said
    assert says in said


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("Fuse-Scales", "no pass can be called 'Fuse-Scales'"),
        ("fuse", "no pass can be called 'fuse'"),
        ("fuse_scales", "no pass can be called"),
        ("fuse-", "no pass can be called"),
        ("2-scales", "no pass can be called"),
        ("../evil-pass", "no pass can be called"),
        ("fuse-" + "a" * 80, "no pass can be called"),
        ("fuse-gate-up", "fuse-gate-up is taken: archsmith.passes.fuse_gate_up has a pass of"),
        ("fuse-relu-squared", "fuse-relu-squared is taken: archsmith_relu2.fuse_relu_squared"),
    ],
)
def test_what_no_pass_can_be_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    result = new(name)
    assert (result.exit_code, result.stdout) == (1, "")
    assert says in result.stderr
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "archsmith-fuse-two-scales").mkdir()
    assert new("fuse-two-scales").exit_code == 0  # an empty one will do
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    result = new("fuse-two-scales")
    assert result.exit_code == 1
    assert "is there already" in result.stderr
    assert before == {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
