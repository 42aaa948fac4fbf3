"""Packages are put in their place whole, and what their owner has there stays."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from archsmith.compiler.cli import main
from archsmith.compiler.emit.write import EditedError, changes, digest, write
from archsmith.compiler.errors import ArchsmithError, OutputError
from click.testing import CliRunner, Result

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


def test_every_name_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of folders that were made above the package, and of those in it that the owner made."""
    synced: set[str] = set()
    sync = os.fsync

    def heard(handle: int) -> None:
        place = os.readlink(f"/proc/self/fd/{handle}")
        synced.add(re.sub(r"\.package\.archsmith-\d+", "stage", os.path.relpath(place, tmp_path)))
        sync(handle)

    monkeypatch.setattr(os, "fsync", heard)
    folder = tmp_path / "a" / "b" / "package"
    write(folder, files(model="1"))
    assert synced >= {".", "a", "a/b", "a/b/stage", "a/b/stage/model.py"}
    (folder / "notes" / "deep").mkdir(parents=True)
    synced.clear()
    write(folder, files(model="2"))
    assert synced >= {"a/b", "a/b/stage", "a/b/stage/notes", "a/b/stage/notes/deep"}


KILLED = """
import os, signal, sys
from pathlib import Path
from archsmith.compiler.emit.write import write

folder = Path(sys.argv[1])


def texts(n):
    files = {f"{place}f{i}.py": str(n) for place in ("", "kernels/") for i in range(3)}
    return {**files, "plan.json": "{}"}


def is_whole(n):
    found = {(folder / path).read_text() for path in texts(0) if path != "plan.json"}
    assert found in ({"0"}, {str(n)}), (n, found)
    assert (folder / "mine.txt").read_text() == "mine"


write(folder, texts(0))
(folder / "mine.txt").write_text("mine")
point, status = 0, None
while status != 0:
    point += 1
    child = os.fork()
    if not child:
        seen = 0

        def hook(event, arguments):
            global seen
            seen += event.partition(".")[0] in ("open", "os", "shutil", "ctypes")
            if seen == point:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        write(folder, texts(point), force=True)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    is_whole(point)
    write(folder, texts(0), force=True)
    assert os.listdir(folder.parent) == [folder.name]
print(point)
"""


def test_a_build_killed_at_any_point_leaves_a_whole_package(tmp_path: Path) -> None:
    """Killed before each of its calls of the system, in turn, until it lives."""
    done = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path / "package"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 40


def build(*arguments: object) -> Result:
    named = ["build", *map(str, arguments)]
    return CliRunner().invoke(main, [*named, *([] if "--proof" in named else ["--no-proof"])])


def contents(folder: Path) -> dict[str, bytes]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_a_build_lists_what_was_edited_and_changes_nothing(tmp_path: Path) -> None:
    page, folder = EXAMPLES / "tiny-llama.yaml", tmp_path / "package"
    assert build(page, "-o", folder).exit_code == 0
    first = contents(folder)
    for path in ("model.py", "kernels/rope.py"):
        (folder / path).write_text("mine")
    (folder / "weights.py").unlink()
    edited = contents(folder)

    refused = build(page, "-o", folder)
    assert refused.exit_code == 1
    assert re.findall(r"^  (\S+\.py)$", refused.stderr, re.M) == ["kernels/rope.py", "model.py"]
    assert "--force" in refused.stderr
    told = json.loads(build(page, "-o", folder, "--dry-run", "--json").stdout)["files"]
    assert [path for path, what in told.items() if what == "edited"] == [
        *("kernels/rope.py", "model.py"),
    ]
    assert told["weights.py"] == "new"
    assert contents(folder) == edited
    assert build(page, "-o", folder, "--force").exit_code == 0
    assert contents(folder) == first


def test_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    done = build(EXAMPLES / "tiny-llama.yaml", "-o", tmp_path / "a" / "package", "--dry-run")
    assert done.exit_code == 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_no_package_can_be_is_refused_before_all_else(tmp_path: Path) -> None:
    for name in ("class", "json", "my-model"):
        refused = build(EXAMPLES / "tiny-llama.yaml", "-o", tmp_path / name, "--proof")
        assert refused.exit_code == 1
        assert f"a package cannot be called '{name}'" in refused.stderr
    (tmp_path / "package").write_text("mine")
    refused = build(EXAMPLES / "tiny-llama.yaml", "-o", tmp_path / "package")
    assert refused.exit_code == 1
    assert "is a file" in refused.stderr
    assert contents(tmp_path) == {"package": b"mine"}


FULL = """
import resource, sys
from archsmith.compiler.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
main(["build", sys.argv[1], "-o", sys.argv[2], "--no-proof"])
"""


def test_a_disk_without_space_leaves_the_old_package(tmp_path: Path) -> None:
    folder = tmp_path / "package"
    assert build(EXAMPLES / "tiny-llama.yaml", "-o", folder).exit_code == 0
    before = contents(folder)
    command = [sys.executable, "-c", FULL, EXAMPLES / "tiny-mixtral.yaml", folder]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 5, done.stderr
    assert "could not be written" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["package"]


BUILDS = """
import sys
from pathlib import Path
from archsmith.compiler.cli import main
for page in map(Path, sys.argv[1:]):
    proofs = ["--no-proof", "--verify-each", "structure"] if "llama" not in page.stem else []
    folder = page.stem.replace("-", "_")
    main(["build", str(page), "-o", folder, *proofs], standalone_mode=False)
"""


def test_two_builds_are_the_same_bytes(tmp_path: Path) -> None:
    places = {"one": ("1", "UTC", "C"), "the_other": ("2", "Asia/Tokyo", "C.UTF-8")}
    pages = [EXAMPLES / f"tiny-{name}.yaml" for name in ("deepseek-v3", "llama", "mixtral")]
    children = []
    for place, (seed, zone, locale) in places.items():
        (tmp_path / place).mkdir()
        children.append(
            subprocess.Popen(
                [sys.executable, "-c", BUILDS, *pages],
                env={**os.environ, "PYTHONHASHSEED": seed, "TZ": zone, "LC_ALL": locale},
                cwd=tmp_path / place,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        )
    assert [child.wait() for child in children] == [0, 0]
    one, other = (contents(tmp_path / place) for place in places)
    assert one == other
    assert len(one) > 3 * 15
