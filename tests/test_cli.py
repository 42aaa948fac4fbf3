"""The command line: its surface, exit codes, and which stream says what."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from archsmith.compiler.cli import main
from archsmith.compiler.ir.graph import Value
from archsmith.compiler.ops.norm import RmsNorm
from archsmith.compiler.plugins import Registry
from archsmith.compiler.views import KINDS
from archsmith.passes.fuse_add_rms_norm import FuseAddRmsNorm
from click.testing import CliRunner, Result

EXAMPLES = Path(__file__).parents[1] / "examples"
TINY = str(EXAMPLES / "tiny-llama.yaml")

SURFACE = {
    "bench": ["batch", "compile", "context", "json", "model", "output", "phase"],
    "bisect": ["json", "package", "pipeline", "target"],
    "build": [
        *("aot", "dry_run", "force", "json", "output", "pipeline", "proof", "target", "tuned"),
        *("verify_each", "weights"),
    ],
    "check": ["json"],
    "convert": ["dry_run", "dtype", "json", "package", "shard_gb", "to_hf"],
    "explain": ["pass", "target"],
    "export": ["batch", "dtype", "json", "output", "pipeline", "proof", "to", "tokens", "weights"],
    "graph": ["after", "block", "format", "output", "phase", "pipeline"],
    "import": ["mtp", "name", "output"],
    "list": ["json"],
    "new": ["output"],
    "opt": ["output", "passes", "target", "verify_each"],
    "plan": ["batch", "cache_bits", "context", "json", "pipeline", "target", "tuned"],
    "run": [
        *("device", "dtype", "max_new", "prompt", "seed", "temperature", "tokens", "top_p"),
        "weights",
    ],
    "schema": ["output"],
    "tune": ["batch", "context", "output"],
    "verify": ["source"],
}


@pytest.fixture(autouse=True)
def _reproducers(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a failure leaves to be looked at goes where the tests' own files go."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path_factory.mktemp("left")))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_surface_is_what_it_was() -> None:
    found = {
        name: sorted(
            option.opts[-1].lstrip("-").replace("-", "_")
            for option in command.params
            if option.opts[0].startswith("-")
        )
        for name, command in main.commands.items()
    }
    assert {n: [o for o in options if o != "o"] for n, options in found.items()} == {
        n: sorted(options) for n, options in SURFACE.items()
    }


def test_help_begins_with_an_example() -> None:
    text = run("--help").stdout
    assert text.index("archsmith import config.json") < text.index("Options:")
    for name in main.commands:
        assert "archsmith" in run(name, "--help").stdout.partition("Options:")[0].partition("\n")[2]


def test_check_says_all_on_stderr_and_exits_with_1(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text(Path(TINY).read_text().replace("heads: 6", "heads: 5"))
    result = run("check", TINY, str(wrong))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "tiny-llama.yaml: no mistakes" in result.stderr
    assert "error[E0211]: heads (5) is not a multiple of kv_heads (2)" in result.stderr
    assert "wrong.yaml:17:" in result.stderr
    found = json.loads(run("check", "--json", str(wrong)).stdout)
    assert {"E0211"} <= {item["code"] for item in found}
    assert all(item["line"] and item["column"] for item in found)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["chekc"], 2),
        (["build", TINY], 2),
        (["build", "none.yaml", "-o", "x"], 1),
        (["build", TINY, "-o", "class"], 1),
        (["build", TINY, "-o", "x", "--target", "tpu"], 1),
        (["build", TINY, "-o", "x", "--pipeline", "fuse-everything"], 1),
        (["run", "none", "--tokens", "1"], 1),
        (["bench", "none"], 1),
        (["tune", "none"], 1),
        (["build", TINY, "-o", "x", "--tuned", "none.yaml"], 1),
        (["explain", "E9999"], 1),
        (["explain", "pass:none"], 1),
        (["list", "dogs"], 1),
        (["import", "none.json"], 1),
        (["opt", TINY, "--passes", "O1"], 1),
        (["graph", TINY, "--block", "none"], 1),
        (["build", TINY, "-o", "/proc/x/y"], 5),
    ],
)
def test_exit_codes(
    arguments: list[str], code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run(*arguments, *(["--no-proof"] if arguments[0] == "build" and code == 5 else []))
    assert result.exit_code == code, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_check_knows_the_components_of_plugins(tmp_path: Path) -> None:
    page = tmp_path / "primer.yaml"
    page.write_text(Path(TINY).read_text().replace("kind: swiglu", "kind: relu2_mlp"))
    result = run("check", str(page))
    assert result.exit_code == 0, result.stderr


def test_a_bug_is_reported_with_a_reproducer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise RuntimeError("a bug of ours")

    monkeypatch.setattr("archsmith.compiler.driver.Compiler.load", broken)
    result = run("build", TINY, "-o", "x")
    assert result.exit_code == 70
    assert "RuntimeError: a bug of ours" in result.stderr
    assert "Traceback" not in result.stderr


def test_import_build_and_run(tmp_path: Path) -> None:
    page, package = tmp_path / "model.yaml", tmp_path / "made_by_cli"
    config = EXAMPLES / "configs" / "tiny-deepseek-v3.json"
    assert run("import", str(config), "-o", str(page)).exit_code == 0
    built = run("build", str(page), "-o", str(package), "--json")
    assert built.exit_code == 0, built.stderr
    report = json.loads(built.stdout)
    assert report["package"]["largest_error"] < 1e-9
    assert report["files"]["model.py"] == "new"
    said = json.loads((package / "plan.json").read_text())["certificate"]["passes"]
    for measured, kept in zip(report["passes"], said, strict=True):
        assert measured["pass"] == kept["pass"]
        if kept["applications"]:
            assert measured["largest_error"] <= kept["proof"]["largest_error"] == 1e-12
        else:
            assert kept["proof"]["largest_error"] is None
    again = run("build", str(page), "-o", str(package), "--dry-run", "--json", "--no-proof")
    assert json.loads(again.stdout)["files"]["model.py"] == "same"
    result = run("run", str(package), "--tokens", "1,2,3", "--max-new", "5")
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.strip().split(",")) == 5


def test_a_build_leaves_stdout_alone_and_an_edited_file_too(tmp_path: Path) -> None:
    package = tmp_path / "package"
    built = run("build", TINY, "-o", str(package), "--no-proof", "--verify-each", "structure")
    assert (built.exit_code, built.stdout) == (0, "")
    assert "not proved: asked not to" in " ".join(built.stderr.split())
    (package / "model.py").write_text("# mine\n")
    again = run("build", TINY, "-o", str(package), "--no-proof")
    assert (again.exit_code, again.stdout) == (1, "")
    assert "  model.py\n" in again.stderr
    assert (package / "model.py").read_text() == "# mine\n"
    assert run("build", TINY, "-o", str(package), "--no-proof", "--force").exit_code == 0
    assert (package / "model.py").read_text() != "# mine\n"


def test_a_proof_that_fails_is_exit_3_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(
        self: FuseAddRmsNorm, op: Any, *, x: Value, weight: Value, norm: RmsNorm, **_: Any
    ) -> Any:
        return op.add_rms_norm(x, x, weight, **norm.attributes())  # the residual is forgotten

    monkeypatch.setattr(FuseAddRmsNorm, "rewrite", wrong)
    result = run("build", TINY, "-o", str(tmp_path / "package"))
    assert (result.exit_code, result.stdout) == (3, "")
    assert "error: pass fuse-add-rms-norm: block " in result.stderr
    (found,) = re.findall(r"`archsmith opt (\S+) --passes fuse-add-rms-norm`", result.stderr)
    assert run("opt", found, "--passes", "fuse-add-rms-norm").exit_code == 3
    assert not (tmp_path / "package").exists()


def test_without_torch_a_build_says_so_and_run_is_exit_4(tmp_path: Path) -> None:
    hidden = tmp_path / "hidden" / "torch"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('torch is not here')\n")
    environment = {**os.environ, "PYTHONPATH": str(hidden.parent)}

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "archsmith.compiler", *arguments]
        return subprocess.run(
            line, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )

    built = command("build", TINY, "-o", "package", "--json")
    assert built.returncode == 0, built.stderr
    report = json.loads(built.stdout)
    assert report["package"] is None
    assert "torch" in report["unproved"]
    ran = command("run", "package", "--tokens", "1")
    assert (ran.returncode, ran.stdout) == (4, "")
    assert "torch is not here" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_an_import_says_what_it_could_not_keep_on_stderr(tmp_path: Path) -> None:
    config = json.loads((EXAMPLES / "configs" / "tiny-deepseek-v2.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "norm_topk_prob": True}))
    result = run("import", str(tmp_path))
    assert result.exit_code == 0
    assert "warning[" in result.stderr
    (tmp_path / "model.yaml").write_text(result.stdout)
    assert run("check", str(tmp_path / "model.yaml")).exit_code == 0
    (tmp_path / "config.json").write_text(json.dumps({**config, "wings": 2, "hidden_size": "wide"}))
    result = run("import", str(tmp_path), "-o", str(tmp_path / "other.yaml"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "wings" in result.stderr
    assert "hidden_size" in result.stderr
    assert not (tmp_path / "other.yaml").exists()


def test_lists_and_the_schema_are_data(registry: Registry) -> None:
    tables = json.loads(run("list", "--json").stdout)
    assert set(tables) == set(KINDS)
    for kind, rows in tables.items():
        assert rows.keys() == getattr(registry, kind).keys()
        assert all(rows.values()), kind  # a line about each
    assert json.loads(run("schema").stdout)["definitions"]


@pytest.mark.parametrize(
    ("form", "start"), [("mermaid", "flowchart"), ("dot", "digraph"), ("svg", "<svg")]
)
def test_pictures_are_of_one_block(form: str, start: str, tmp_path: Path) -> None:
    picture = tmp_path / "picture"
    wanted = ["graph", TINY, "--format", form, "-o", str(picture)]
    assert run(*wanted).exit_code == 1
    assert run(*wanted, "--block", "layer").exit_code == 0
    assert picture.read_text().startswith(start)


def test_graph_and_opt_are_inverse_in_text(tmp_path: Path) -> None:
    text = run("graph", TINY).stdout
    (tmp_path / "model.ir").write_text(text)
    assert run("opt", str(tmp_path / "model.ir"), "--passes", "O0").stdout == text
    fused = run("opt", str(tmp_path / "model.ir"), "--passes", "fuse-gate-up")
    assert "%gate_up" in fused.stdout
    assert "applied 1 times" in fused.stderr
    assert run("graph", TINY, "--pipeline", "fuse-gate-up").stdout == fused.stdout


@pytest.mark.parametrize(
    ("arguments", "absent"),
    [(["--help"], "networkx numpy torch"), (["check", TINY], "networkx numpy torch triton")],
)
def test_what_is_quick_imports_little(arguments: list[str], absent: str) -> None:
    code = (
        "import sys\nfrom archsmith.compiler.cli import main\n"
        f"try: main({arguments!r})\nexcept SystemExit: pass\n"
        f"print([m for m in {absent.split()!r} if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip().endswith("[]")
