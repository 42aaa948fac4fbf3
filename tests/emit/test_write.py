"""Packages are put in their place whole, and what their owner has there stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from archsmith.compiler.emit.write import EditedError, changes, digest, write
from archsmith.compiler.errors import ArchsmithError, OutputError

EXAMPLES = Path(__file__).parents[2] / "examples"


def files(**texts: str) -> dict[str, str]:
    """Files as `emit` gives them: with a plan that has their hashes."""
    named = {name.replace("__", "/") + ".py": text for name, text in texts.items()}
    hashes = ", ".join(f'"{path}": "{digest(text)}"' for path, text in named.items())
    return {**named, "plan.json": f'{{"files": {{{hashes}}}}}'}


def test_the_owners_files_survive(tmp_path: Path) -> None:
    folder = tmp_path / "package"
    write(folder, files(model="1", kernels__rope="1"))
    (folder / ".git").mkdir()
    (folder / ".git" / "HEAD").write_text("ref")
    (folder / "kernels" / "mine.py").write_text("mine")
    (folder / "tool.sh").write_text("echo")
    (folder / "tool.sh").chmod(0o755)
    (folder / "link").symlink_to("model.py")
    done = write(folder, files(model="2"))
    assert done["model.py"] == "changed"
    assert done["kernels/rope.py"] == "removed"
    assert (folder / "model.py").read_text() == "2"
    assert not (folder / "kernels" / "rope.py").exists()
    assert (folder / ".git" / "HEAD").read_text() == "ref"
    assert (folder / "kernels" / "mine.py").read_text() == "mine"
    assert os.access(folder / "tool.sh", os.X_OK)
    assert (folder / "link").is_symlink()
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


def test_an_edited_file_is_not_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "package"
    write(folder, files(model="1", weights="1"))
    (folder / "model.py").write_text("mine")
    with pytest.raises(EditedError, match=r"model\.py") as refused:
        write(folder, files(model="2", weights="2"))
    assert refused.value.exit_code == 1
    assert refused.value.edited == ["model.py"]
    assert (folder / "weights.py").read_text() == "1"
    write(folder, files(model="2", weights="2"), force=True)
    assert (folder / "model.py").read_text() == "2"


def test_files_that_archsmith_did_not_write_are_not_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "model.py").write_text("mine")
    with pytest.raises(EditedError):
        write(folder, files(model="1"))
    assert (folder / "model.py").read_text() == "mine"


def test_changes_write_nothing(tmp_path: Path) -> None:
    assert changes(tmp_path / "package", files(model="1")) == {
        "model.py": "new",
        "plan.json": "new",
    }
    assert list(tmp_path.iterdir()) == []


def test_a_plan_cannot_reach_out_of_its_folder(tmp_path: Path) -> None:
    (tmp_path / "outside.py").write_text("x")
    folder = tmp_path / "package"
    folder.mkdir()
    hashed = digest("x")
    (folder / "plan.json").write_text(f'{{"files": {{"../outside.py": "{hashed}"}}}}')
    write(folder, files(model="1"), force=True)
    assert (tmp_path / "outside.py").exists()


@pytest.mark.parametrize("name", ["class", "1a", "a-b", "json", "torch", "triton", "é"])
def test_a_folder_that_cannot_be_imported(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArchsmithError, match="a package cannot be called"):
        write(tmp_path / name, files(model="1"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "package").write_text("x")
    with pytest.raises(ArchsmithError, match="is a file"):
        write(tmp_path / "package", files(model="1"))


def test_a_disk_that_says_no(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    write(tmp_path / "package", files(model="1"))
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left") as failed:
        write(tmp_path / "package", files(model="2"))
    assert failed.value.exit_code == 5
    assert (tmp_path / "package" / "model.py").read_text() == "1"
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


KILLED = """
import sys
from pathlib import Path
from archsmith.compiler.emit.write import write
folder, n = Path(sys.argv[1]), 0
print("ready", flush=True)
while True:
    n += 1
    texts = {f"f{i}.py": str(n) for i in range(40)}
    write(folder, {**texts, "plan.json": "{}"}, force=True)
"""


def test_a_killed_build_leaves_a_whole_package(tmp_path: Path) -> None:
    folder = tmp_path / "package"
    for wait in (0.05, 0.11, 0.17, 0.23):
        child = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(folder)], stdout=subprocess.PIPE
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(wait)
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        if folder.exists():
            assert len({(folder / f"f{i}.py").read_text() for i in range(40)}) == 1
    write(folder, files(model="1"), force=True)
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


def test_two_builds_are_the_same_bytes(tmp_path: Path) -> None:
    found = []
    for seed, zone in (("1", "UTC"), ("2", "Asia/Tokyo")):
        folder = tmp_path / f"in_{seed}" / "package"
        folder.parent.mkdir()
        command = [sys.executable, "-m", "archsmith.compiler", "build"]
        page = EXAMPLES / "tiny-deepseek-v3.yaml"
        done = subprocess.run(
            [*command, str(page), "-o", str(folder)],
            env={**os.environ, "PYTHONHASHSEED": seed, "TZ": zone},
            cwd=folder.parent,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        paths = sorted(p for p in folder.rglob("*") if p.is_file())
        found.append({p.relative_to(folder).as_posix(): p.read_bytes() for p in paths})
    assert found[0] == found[1]
    assert len(found[0]) > 15
