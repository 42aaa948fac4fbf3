"""The command line's files and folders: what it follows, spares, and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from archsmith.compiler.cli import main
from click.testing import CliRunner, Result

EXAMPLES = Path(__file__).parents[1] / "examples"
TINY = str(EXAMPLES / "tiny-llama.yaml")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tokens", "1,a"], "ids separated by commas"),
        (["--tokens", "9" * 30], "ids separated by commas"),
        (["--tokens", "1", "--seed", "9" * 30], "--seed is a number"),
        (
            ["--tokens", "1", "--dtype", "int8"],
            "--dtype is float32, bfloat16, float16 or float64, not 'int8'",
        ),
        (["--tokens", "1", "--weights", TINY], "is no folder with a checkpoint"),
        (["--tokens", "1", "--device", "cuda:77"], "error: "),
    ],
)
def test_run_says_what_is_wrong(
    options: list[str], message: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    package = tmp_path_factory.mktemp("run") / "run_by_cli"
    assert run("build", TINY, "-o", str(package), "--no-proof").exit_code == 0
    result = run("run", str(package), *options)
    assert result.exit_code == 1
    assert message in result.stderr


def test_a_link_to_a_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real_one").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real_one")
    assert run("build", TINY, "-o", str(tmp_path / "link"), "--no-proof").exit_code == 0
    assert (tmp_path / "real_one" / "model.py").is_file()
    assert (tmp_path / "link").is_symlink()


def test_an_import_checks_its_name_and_spares_its_input(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    text = (EXAMPLES / "configs" / "tiny-llama.json").read_text()
    config.write_text(text)
    assert run("import", str(config), "--name", "x\ny").exit_code == 1
    assert run("import", str(config), "-o", str(config)).exit_code == 1
    assert run("import", str(tmp_path), "-o", str(config)).exit_code == 1
    assert config.read_text() == text
