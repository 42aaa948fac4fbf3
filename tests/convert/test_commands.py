"""`convert` and `verify` as commands: what they print, their exit codes, and what they take."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from archsmith.compiler.cli import main
from archsmith.compiler.driver import Compiler
from archsmith.compiler.imported import imported
from click.testing import CliRunner, Result
from convert.conftest import held
from package.tiny import fresh

PAGE = Path(__file__).parents[2] / "docs" / "checkpoints.md"


def ran(*command: object) -> Result:
    return CliRunner().invoke(main, [*map(str, command)])


@pytest.fixture
def folder(package: Any) -> Path:
    return Path(package.__file__).parent


def test_the_commands_of_the_page(
    folder: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deepseek-v2-lite").symlink_to(checkpoint)
    text = re.sub(r"^```.*?^```$", "", PAGE.read_text(), flags=re.DOTALL | re.MULTILINE)
    lines = [line.strip() for line in text.splitlines() if line.startswith("    ")]
    for line in lines:
        program, *arguments = shlex.split(line.replace("my_model", str(folder)))
        assert program == "archsmith"
        done = ran(*arguments)
        assert done.exit_code == 0, f"{line}\n{done.output}"
    assert len(lines) == 5
    before = {k: v for k, v in held(checkpoint).items() if k == "config.json"}
    assert before["config.json"] == (tmp_path / "checkpoint" / "config.json").read_bytes()


def test_a_dry_run_writes_nothing(folder: Path, checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    done = ran("convert", checkpoint, out, "--package", folder, "--dry-run", "--json")
    report = json.loads(done.stdout)
    assert not out.parent.exists()
    weights = sum(file.stat().st_size for file in checkpoint.glob("*.safetensors"))
    assert 0.9 * weights < report["read"] <= weights
    assert 0 < report["memory"] < report["written"] < report["free"]
    assert report["seconds"] > 0
    done = ran("convert", checkpoint, out, "--package", folder, "--dry-run")
    assert done.stdout == ""
    for said in ("nothing written", "memory:", "disk:", "time: about"):
        assert said in done.stderr


def test_what_is_rounded_and_what_is_there_already_is_told(
    package: Any, folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    command = ("convert", checkpoint, tmp_path / "out", "--package", folder)
    first, second = ran(*command), ran(*command)
    assert (first.exit_code, second.exit_code) == (0, 0)
    assert "already" not in first.stderr
    assert "narrower" not in first.stderr
    assert "there already" in second.stderr
    package.save(fresh(package, torch.float64), tmp_path / "wide")
    done = ran("convert", tmp_path / "wide", tmp_path / "new", "--package", folder, "--dry-run")
    own = str(package.Config.dtype).removeprefix("torch.")
    assert own == "float32"
    assert "rounded to a narrower dtype: " in done.stderr
    assert "lm_head.weight (F64 to F32)" in done.stderr


def test_exit_codes(folder: Path, checkpoint: Path, whole: Path, tmp_path: Path) -> None:
    def fails(code: int, said: str, *command: object) -> None:
        done = ran(*command)
        assert (done.exit_code, done.stdout) == (code, ""), done.stderr
        assert said in done.stderr

    there = ("--package", folder)
    fails(1, "is no folder", "convert", tmp_path / "none", tmp_path / "out", *there)
    fails(1, "holds no package", "convert", checkpoint, tmp_path / "out", "--package", tmp_path)
    fails(1, "is what is read", "convert", checkpoint, checkpoint, *there)
    fails(1, "--dtype is", "convert", checkpoint, tmp_path / "out", *there, "--dtype", "int8")
    fails(1, "has no checksums.json", "convert", checkpoint, tmp_path / "out", *there, "--to-hf")
    fails(2, "shard-gb", "convert", checkpoint, tmp_path / "out", *there, "--shard-gb", "0")
    fails(
        5,
        f"error: {whole / 'config.json' / 'out'}: Not a directory",
        "convert",
        checkpoint,
        whole / "config.json" / "out",
        *there,
    )
    fails(1, "has no checksums.json", "verify", checkpoint)
    shutil.copytree(whole, tmp_path / "copy")
    (tmp_path / "copy" / "config.json").write_text("{}")
    fails(3, "config.json is damaged", "verify", tmp_path / "copy")
    shutil.copytree(checkpoint, tmp_path / "less")
    next((tmp_path / "less").glob("model-00003*")).unlink()
    fails(1, "lacks model-00003", "convert", tmp_path / "less", tmp_path / "out", *there)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "code"),
    [
        (["--shard-gb", "inf"], 2),
        (["--shard-gb", "1e300"], 2),
        (["--shard-gb", "nan"], 2),
        (["--dtype", "float8_e4m3fn"], 1),
    ],
)
def test_options_outside_their_range(
    options: list[str], code: int, folder: Path, checkpoint: Path, tmp_path: Path
) -> None:
    done = ran("convert", checkpoint, tmp_path / "out", "--package", folder, *options)
    assert done.exit_code == code
    assert not (tmp_path / "out").exists()


def test_memory_is_bounded_by_the_largest_tensor(tmp_path: Path) -> None:
    """240 MB of weights, of which the embedding's 34 MB are the largest tensor."""
    (tmp_path / "wide.yaml").write_text(WIDE)
    compiler = Compiler.installed(numeric=False)
    pipeline, passes = compiler.passes(None)
    spec = compiler.load(tmp_path / "wide.yaml")
    compiler.package(spec, tmp_path / "wide", pipeline, passes, prove=False)
    package = imported(tmp_path / "wide")
    package.save(package.Model(), tmp_path / "source")
    # The most that this process held, unlike `getrusage`, which counts those it came from too.
    code = "from archsmith.compiler.cli import main\nimport sys\ntry: main(sys.argv[1:])\n"
    code += "finally: print(open('/proc/self/status').read())"
    arguments = ["source", "out", "--package", "wide"]
    done = subprocess.run(
        [sys.executable, "-c", code, "convert", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    most = 2 * 16_384 * 1024 * 2
    (peak,) = re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)
    assert int(peak) * 1024 < most + 300e6
    written = sum(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors"))
    assert written > 230e6


WIDE = """\
archsmith: 1
name: wide
dtype: bfloat16
vocab_size: 16384
hidden_size: 1024
max_positions: 64
layers: [{repeat: 4, block: layer}]
blocks:
  layer: [{norm: rms, use: attention}, {norm: rms, use: mlp}]
parts:
  rms: {kind: rms_norm, eps: 1.0e-5}
  attention: {kind: gqa, heads: 8, kv_heads: 2, head_dim: 64,
              rope: {theta: 10000, interleaved: false}}
  mlp: {kind: swiglu, width: 8192}
final_norm: rms
head: {tied: true}
"""
