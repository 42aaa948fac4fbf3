"""The emitted text of the tiny examples, as it was last agreed: a change of it shows as a diff.

`pytest tests/emit/test_golden.py --update-golden` writes it anew.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from archsmith.compiler.driver import Compiler

EXAMPLES = Path(__file__).parents[2] / "examples"
GOLDEN = Path(__file__).parents[1] / "golden"
CASES = [
    *(("tiny-llama", p) for p in ("O0", "O1")),
    *((name, "O1") for name in ("tiny-mixtral", "tiny-qwen3-moe")),
    *(("tiny-deepseek-v2", p) for p in ("O0", "O1")),
    ("tiny-deepseek-v3", "O1"),
]
KEPT = ("model.py", "weights.py", "config.json", "README.md")


@pytest.mark.parametrize(("example", "pipeline"), CASES)
def test_emitted_text(
    example: str, pipeline: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    compiler = Compiler.installed(numeric=False)
    name, passes = compiler.passes(pipeline)
    folder = tmp_path / "package"
    compiler.package(compiler.load(EXAMPLES / f"{example}.yaml"), folder, name, passes, prove=False)
    golden = GOLDEN / example / pipeline
    if request.config.getoption("--update-golden"):
        golden.mkdir(parents=True, exist_ok=True)
        for file in KEPT:
            (golden / f"{file}.txt").write_text((folder / file).read_text())
    for file in KEPT:
        assert (golden / f"{file}.txt").is_file(), "no golden; see the module's docstring"
        assert (folder / file).read_text() == (golden / f"{file}.txt").read_text(), file
    for command in (["format", "--check"], ["check", "--select", "E,F,W,I,B,UP,RET"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--isolated", "--line-length", "100", folder],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout


def test_no_golden_is_left_over() -> None:
    wanted = {GOLDEN / example / pipeline / f"{f}.txt" for example, pipeline in CASES for f in KEPT}
    assert {path for path in GOLDEN.rglob("*") if path.is_file()} == wanted
