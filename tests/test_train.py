"""The model that an example trains: it learns, resumes to the bit, and speaks."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from archsmith.compiler.cli import main
from click.testing import CliRunner, Result
from tokenizers import Tokenizer

PROMPT = "A pass is"


@pytest.fixture
def train(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example as a module; what it imports is forgotten again."""
    spec = importlib.util.spec_from_file_location("train", root / "examples" / "train.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "train", module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    spec.loader.exec_module(module)
    yield module
    forget()


@pytest.fixture
def speak(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """Runs the trained package with these arguments."""
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(*arguments: str, weights: Path = trained / "checkpoint") -> Result:
        command = ["run", str(trained / "small_deepseek_v3"), "--weights", str(weights)]
        return CliRunner().invoke(main, [*command, *arguments])

    yield run
    forget()


def forget() -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "small_deepseek_v3"]:
        del sys.modules[name]


def losses(told: str) -> list[float]:
    return [float(loss) for loss in re.findall(r"validation loss (\d+\.\d+)", told)]


def test_the_loss_goes_down(trained: Path) -> None:
    told = (trained / "told.txt").read_text()
    start, end = losses(told)
    assert end < start - 0.4
    assert f"--weights {trained / 'checkpoint'} --prompt" in told


def test_a_run_that_resumed_is_one_that_was_not_stopped(
    trained: Path, train: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    take = train.package_in  # the package is the same, and takes seconds to build
    train.package_in = lambda out, build, prove: take(trained, build=False, prove=False)
    options = ["--rows", "4", "--out", str(tmp_path), "--text", str(trained / "text.txt")]
    train.main([*options, "--steps", "7", "--save-every", "5"])
    train.main([*options, "--steps", "12", "--resume"])
    start, stopped, resumed, end = losses(capsys.readouterr().out)
    assert stopped == resumed
    assert [start, end] == losses((trained / "told.txt").read_text())
    for name in ("model.safetensors", "tokenizer.json", "config.json", "generation_config.json"):
        own, other = (folder / "checkpoint" / name for folder in (tmp_path, trained))
        assert own.read_bytes() == other.read_bytes(), name
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint"]  # nothing half done
    train.main([*options, "--steps", "3", "--resume"])
    assert "--steps 12 gives the same weights" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resume", "--seed", "3"], "was trained with --seed 0"),
        (["--resume", "--out", "none"], "holds no run to resume"),
        (["--text", "none.txt"], "none.txt is no file"),
    ],
)
def test_what_cannot_be_resumed(
    options: list[str], message: str, trained: Path, train: ModuleType, tmp_path: Path
) -> None:
    shutil.copytree(trained / "checkpoint", tmp_path / "checkpoint")
    sys.path.insert(0, str(trained))
    text = str(trained / "text.txt")
    with pytest.raises(SystemExit, match=message):
        train.main(["--out", str(tmp_path), "--rows", "4", "--text", text, *options])


def test_a_prompt_is_answered_in_text(trained: Path, speak: object) -> None:
    """The text of the tokens that the same prompt gives as numbers."""
    tokenizer = Tokenizer.from_file(str(trained / "checkpoint" / "tokenizer.json"))
    ids = tokenizer.encode(PROMPT).ids
    assert ids[0] == tokenizer.token_to_id("<|end|>")
    drawn = ("--max-new", "24", "--temperature", "1", "--seed", "2")
    spoken = speak("--prompt", PROMPT, *drawn)
    assert spoken.exit_code == 0, spoken.stderr
    numbers = speak("--tokens", ",".join(map(str, ids)), *drawn)
    wanted = tokenizer.decode([int(token) for token in numbers.stdout.split(",")])
    assert spoken.stdout == wanted.rstrip("\ufffd") + "\n"
    assert len(spoken.stdout) > 20


def test_it_ends_where_the_configuration_says(trained: Path, speak: object, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(trained / "checkpoint", folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    ids = ",".join(map(str, tokenizer.encode(PROMPT).ids))
    drawn = ("--max-new", "12", "--temperature", "1", "--seed", "2")
    free = [int(t) for t in speak("--tokens", ids, *drawn).stdout.split(",")]
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [1, free[5]]}))
    ended = speak("--prompt", PROMPT, *drawn, weights=folder)
    assert ended.exit_code == 0, ended.stderr
    assert free[5] not in free[:5]
    assert ended.stdout == tokenizer.decode(free[:5]).rstrip("\ufffd") + "\n"


def test_the_loop_of_the_documents(
    root: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It trains, saves and loads; every function that the page names is one of the package's."""
    page = (root / "docs" / "training.md").read_text()
    (loop,) = re.findall(r"^```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(trained), *sys.path])
    names: dict[str, object] = {}
    exec(loop, names)
    assert (tmp_path / "trained" / "model.safetensors").exists()
    balance = names["m"].balance
    told = set(re.findall(r"^\| `(\w+)\(", page, re.MULTILINE))
    assert told == {name for name in balance.__all__ if name.islower()}
    told = set(re.findall(r"`route\.(\w+)", page))
    assert told == {"counts", "scores", "mean_scores", "logits", "index"}
    assert all(name in dir(balance.Route) or name in balance.Route.__annotations__ for name in told)
    forget()


def test_a_tokenizer_of_another_model(speak: object, trained: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    shutil.copytree(trained / "checkpoint", folder)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_tokens([f"more{i}" for i in range(9)])
    tokenizer.save(str(folder / "tokenizer.json"))
    found = speak("--prompt", "more7", weights=folder)
    assert (found.exit_code, found.stdout) == (1, "")
    assert "error: token 2055 is outside 0..2047" in found.stderr
