"""The command line: its surface, exit codes, and which stream says what."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from archsmith.compiler.cli import main
from click.testing import CliRunner, Result

EXAMPLES = Path(__file__).parents[1] / "examples"
TINY = str(EXAMPLES / "tiny-llama.yaml")

SURFACE = {
    "build": ["dry_run", "force", "json", "output", "pipeline", "proof", "target", "verify_each"],
    "check": ["json"],
    "explain": ["pass"],
    "graph": ["after", "block", "format", "output", "phase", "pipeline"],
    "import": ["name", "output"],
    "list": ["json"],
    "opt": ["output", "passes"],
    "run": [
        *("device", "dtype", "max_new", "seed", "temperature", "tokens", "top_p", "weights"),
    ],
    "schema": ["output"],
}


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
    again = run("build", str(page), "-o", str(package), "--dry-run", "--json", "--no-proof")
    assert json.loads(again.stdout)["files"]["model.py"] == "same"
    result = run("run", str(package), "--tokens", "1,2,3", "--max-new", "5")
    assert result.exit_code == 0, result.stderr
    assert len(result.stdout.strip().split(",")) == 5


def test_graph_and_opt_are_inverse_in_text(tmp_path: Path) -> None:
    text = run("graph", TINY).stdout
    (tmp_path / "model.ir").write_text(text)
    assert run("opt", str(tmp_path / "model.ir"), "--passes", "O0").stdout == text
    fused = run("opt", str(tmp_path / "model.ir"), "--passes", "fuse-gate-up")
    assert "%gate_up" in fused.stdout
    assert "applied 1 times" in fused.stderr
    assert run("graph", TINY, "--pipeline", "fuse-gate-up").stdout == fused.stdout


def test_explain_says_why_a_pass_left_something_alone() -> None:
    result = run("explain", str(EXAMPLES / "tiny-deepseek-v2.yaml"), "--pass", "fuse-add-rms-norm")
    why = "left alone dense/%latent_2: %latent is a split, the pattern wants an add"
    assert why in result.stdout


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
