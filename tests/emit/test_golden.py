"""The emitted text of the tiny examples, as it was last agreed: a change of it shows as a diff.

`pytest tests/emit/test_golden.py --update-golden` writes it anew. Files that most packages have
alike are kept once, in golden/shared and without their first line; what differs from those is
beside the model.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from archsmith.compiler.driver import Compiler

EXAMPLES = Path(__file__).parents[2] / "examples"
GOLDEN = Path(__file__).parents[1] / "golden"
SHARED = GOLDEN / "shared"
GPU = GOLDEN / "gpu"  # of test_golden_gpu.py
CASES = [
    ("tiny-deepseek-v3", "O2"),  # the first is the one that shared files are taken from
    *(("tiny-deepseek-v2", p) for p in ("O0", "O2")),
    *((name, "O2") for name in ("tiny-mixtral", "tiny-qwen3-moe")),
    *(("tiny-llama", p) for p in ("O0", "O2", "O2,page-cache")),
    ("tiny-mtp", "O2"),
]
NO_EXAMPLES = {"tiny-mtp": Path(__file__).with_name("tiny-mtp.yaml")}
OWN = ("model.py", "weights.py", "graph.ir", "config.json", "plan.json", "README.md")
Emitted = Callable[[str, str], Path]


@pytest.fixture(scope="module")
def emitted(tmp_path_factory: pytest.TempPathFactory) -> Emitted:
    """Builds an example with a pipeline, once, and returns its folder."""
    compiler = Compiler.installed(numeric=False)
    root = tmp_path_factory.mktemp("emitted")

    @cache
    def build(example: str, pipeline: str) -> Path:
        folder = root / re.sub(r"\W", "_", f"{example}_{pipeline}")
        name, passes = compiler.passes(pipeline)
        spec = compiler.load(NO_EXAMPLES.get(example, EXAMPLES / f"{example}.yaml"))
        compiler.package(spec, folder, name, passes, prove=False)
        return folder

    return build


def texts(folder: Path) -> dict[str, str]:
    """The text of every file by its path; the plan without the hashes of the others."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    found = {path.relative_to(folder).as_posix(): path.read_text() for path in paths}
    plan = json.loads(found["plan.json"])
    assert plan.pop("files") == {
        path: hashlib.sha256(text.encode()).hexdigest()
        for path, text in found.items()
        if path != "plan.json"
    }
    return {**found, "plan.json": f"{json.dumps(plan, indent=2, sort_keys=True)}\n"}


def expected(example: str, pipeline: str, files: dict[str, str]) -> dict[Path, str]:
    """What the golden files must be for a package: each text at its place."""
    golden: dict[Path, str] = {}
    reference = (example, pipeline) == CASES[0]
    for path, text in files.items():
        header, _, body = text.partition("\n")
        if path in OWN:
            golden[GOLDEN / example / pipeline / f"{path}.txt"] = text
        elif reference or _is_shared(path, body):
            assert header.startswith(f"# {example} for cpu, written by archsmith "), path
            assert header.endswith(f" with pipeline {pipeline}."), path
            golden[SHARED / f"{path}.txt"] = body
        else:
            golden[GOLDEN / example / pipeline / f"{path}.txt"] = text
    return golden


def _is_shared(path: str, body: str) -> bool:
    file = SHARED / f"{path}.txt"
    return file.is_file() and file.read_text() == body


@pytest.mark.parametrize(("example", "pipeline"), CASES)
def test_emitted_text(
    example: str, pipeline: str, emitted: Emitted, request: pytest.FixtureRequest
) -> None:
    golden = expected(example, pipeline, texts(emitted(example, pipeline)))
    if request.config.getoption("--update-golden"):
        for file, text in golden.items():
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
    for file, text in golden.items():
        assert file.is_file(), f"no golden {file.relative_to(GOLDEN)}; see the module's docstring"
        assert text == file.read_text(), file


def test_no_golden_is_left_over(emitted: Emitted, request: pytest.FixtureRequest) -> None:
    wanted = {file for case in CASES for file in expected(*case, texts(emitted(*case)))}
    kept = {path for path in GOLDEN.rglob("*") if path.is_file()}
    left = {path for path in kept if GPU not in path.parents} - wanted
    if request.config.getoption("--update-golden"):
        for file in left:
            file.unlink()
        left = set()
    assert left == set()


def is_clean(folder: Path) -> None:
    """Formatted, without what a linter finds, and Python."""
    # Of a kernel's two branches on a constant, the other is not compiled: they need their else.
    rules = ["--select", "E,F,W,I,B,UP,RET,SIM,PIE", "--ignore", "RET505"]
    for command in (["format", "--check"], ["check", *rules]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length=100", folder],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout
    for file in folder.rglob("*.py"):
        compile(file.read_text(), file, "exec", dont_inherit=True)


@pytest.mark.parametrize(("example", "pipeline"), CASES)
def test_emitted_text_is_clean(example: str, pipeline: str, emitted: Emitted) -> None:
    is_clean(emitted(example, pipeline))


def lengthened(page: str) -> str:
    """A spec in which every name of the user's is as long as it may be."""

    def long(match: re.Match[str]) -> str:
        return match[1] + f"{match[2]}_{'very_long_name_' * 5}"[:63]

    own = "rms|attention|mlp|experts|dense|sparse|layer"
    page = re.sub(rf"(?m)(^  )({own})(?=:)", long, page)
    page = re.sub(rf"((?:use|norm|block): )({own})\b", long, page)
    return re.sub(r"(?m)(^name: )([\w-]+)$", long, page)


@pytest.mark.parametrize("pipeline", ["O0", "O2"])
@pytest.mark.parametrize("example", ["tiny-deepseek-v3", "tiny-mixtral", "tiny-qwen3-moe"])
def test_names_of_any_length_leave_the_text_clean(
    example: str, pipeline: str, tmp_path: Path
) -> None:
    page = tmp_path / "long.yaml"
    page.write_text(lengthened((EXAMPLES / f"{example}.yaml").read_text()))
    compiler = Compiler.installed(numeric=False)
    name, passes = compiler.passes(pipeline)
    folder = tmp_path / "package"
    compiler.package(compiler.load(page), folder, name, passes, prove=False)
    assert "very long name" in (folder / "model.py").read_text()
    is_clean(folder)
