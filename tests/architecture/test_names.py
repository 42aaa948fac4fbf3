"""House rules that no other tool holds: sizes of files, and names that code must not know."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.passes import ModelPass, Pass

PYTHON, TEMPLATE = 300, 200  # lines; raising a limit is a visible change

MODELS = "deepseek|llama|mixtral|mistral|qwen|gemma|gpt_oss|kimi"
CHIPS = r"a100|h100|h200|b200|mi300x?|sm_?\d\d+|gfx\d+|blackwell|hopper"


def files(root: Path, *folders: str, suffix: str) -> Iterator[Path]:
    for folder in folders:
        for file in sorted((root / folder).rglob(f"*{suffix}")):
            if "__pycache__" not in file.parts:
                yield file


def words(root: Path, pattern: str, *folders: str) -> list[str]:
    """Where code, comments and docstrings left out, has a word."""
    found = []
    for file in files(root, *folders, suffix=".py"):
        for line, text in code(file):
            if re.search(rf"(?i)(?<![a-z0-9])(?:{pattern})", text):
                found.append(f"{file.relative_to(root).as_posix()}:{line}: {text}")
    return found


def code(file: Path) -> Iterator[tuple[int, str]]:
    """Every name and every string of a file that is no docstring, with its line."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    alone = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in alone:
            yield line, node.value
        for field in ("id", "attr", "name", "arg", "module"):
            if isinstance(name := getattr(node, field, None), str):
                yield line, name


OVER = {
    "templates/module/model.py.jinja": 225,
    "templates/module/test_package.py.jinja": 221,
    "tests/emit/test_proof.py": 304,
    "tests/spec/test_load.py": 306,
}
"""Files that are longer than they should be: they may shrink, not grow, and no other joins them."""


def test_files_are_short(root: Path) -> None:
    code = ("compiler", "passes", "templates", "examples", "tests")
    lengths = {
        file.relative_to(root).as_posix(): (
            len(file.read_text().splitlines()),
            OVER.get(file.relative_to(root).as_posix(), limit),
        )
        for suffix, limit in ((".py", PYTHON), (".jinja", TEMPLATE))
        for file in files(root, *code, suffix=suffix)
    }
    assert len(lengths) > 100
    long = {name: lines for name, (lines, limit) in lengths.items() if lines > limit}
    assert not long


def test_a_file_opens_with_one_sentence(root: Path) -> None:
    for file in files(root, "compiler", "passes", "templates", "tests", suffix=".py"):
        first = file.read_text(encoding="utf-8").partition("\n")[0]
        assert re.match(r'"""[A-Z`].*[^ ](?:"""|[.:;,a-z])$', first), f"{file}: {first}"


def test_no_file_is_called_after_nothing(root: Path) -> None:
    banned = re.compile(r"(utils?|helpers?|common|base|misc|manager)\.py|new_.*")
    found = files(root, "compiler", "passes", "templates", "tests", suffix=".py")
    assert not [file for file in found if banned.fullmatch(file.name)]


def test_the_compiler_names_no_model(root: Path) -> None:
    """But in families, and where a method of scaling is called after the model that had it."""
    found = words(root, MODELS, "compiler", "passes", "templates")
    elsewhere = [line for line in found if not line.startswith("compiler/families/")]
    assert len(found) > len(elsewhere) + 10  # this finds them where they are
    assert not [line for line in elsewhere if not re.search(r": (llama3|Llama3)$", line)]


def test_no_code_names_a_chip(root: Path) -> None:
    assert not words(root, CHIPS, "compiler", "passes", "templates")
    for file in files(root, "compiler", "passes", "templates", suffix=".py"):
        assert not re.search(r"target\.name\s*(==|!=|in )", file.read_text()), file


def test_the_compiler_names_no_pass_and_no_kernel(root: Path, registry: Registry) -> None:
    passes = [re.escape(n) for n in registry.passes]
    passes += [re.escape(name.replace("-", "_")) + r"\b" for name in registry.passes]
    kernels = [re.escape(name) for name in registry.kernels]
    assert not words(root, "|".join([*passes, *kernels]), "compiler")


def test_a_pass_is_in_the_file_of_its_name(root: Path, registry: Registry) -> None:
    stems = {file.stem for file in (root / "passes").glob("*.py")} - {"__init__"}
    ours = {n: p for n, p in registry.passes.items() if p.__module__.startswith("archsmith.")}
    assert stems == {name.replace("-", "_") for name in ours}
    for name, plugin in registry.passes.items():
        assert plugin.__module__.rpartition(".")[2] == name.replace("-", "_")
        assert plugin.__name__ == "".join(word.capitalize() for word in name.split("-"))
        assert re.fullmatch(r"[a-z]+(-[a-z0-9]+)+", name)


def test_a_pass_shows_what_it_does(registry: Registry) -> None:
    for plugin in registry.passes.values():
        assert issubclass(plugin, Pass | ModelPass)
        assert "->" in (plugin.__doc__ or "") or "%" in (plugin.__doc__ or ""), plugin


def test_pipelines_name_passes_that_are_there(registry: Registry) -> None:
    for passes in registry.pipelines.values():
        assert set(passes) <= set(registry.passes)
        assert len(set(passes)) == len(passes)


@pytest.mark.parametrize("folder", ["compiler", "passes", "templates", "examples", "docs"])
def test_nothing_names_a_place_of_ours(root: Path, folder: str) -> None:
    paths = re.compile(r"(?<![\w.])/(?:work|tmp|home|root)/")
    for file in (root / folder).rglob("*"):
        if file.is_file() and file.suffix in (".py", ".jinja", ".yaml", ".md", ".toml", ".json"):
            assert not paths.search(file.read_text(encoding="utf-8")), file
