"""Packages stand alone: without archsmith, beside each other, under any name."""

from __future__ import annotations

import ast
import importlib
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from package.tiny import Build, folder_of, fresh, prompt

# What it takes to import a package here: torch, and safetensors to read a checkpoint.
FORBIDDEN = "archsmith jinja2 networkx numpy.testing pydantic ruamel click triton transformers"


@pytest.mark.parametrize("example", ["tiny-llama", "tiny-mixtral", "tiny-deepseek-v3"])
def test_a_package_passes_its_own_tests_without_archsmith(package: Build, example: str) -> None:
    folder = folder_of(package(example))
    code = (
        f"import sys, runpy\nsys.modules.update(dict.fromkeys({FORBIDDEN.split()!r}))\n"
        f"sys.argv = ['test']\nrunpy.run_module('{folder.name}.tests.test_package', "
        "run_name='__main__', alter_sys=True)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "OK (skipped=3)" in done.stderr  # those that record CUDA graphs
    assert "Ran 0 tests" not in done.stderr


def test_a_package_passes_its_own_tests_under_pytest(package: Build, tmp_path: Path) -> None:
    folder = tmp_path / "renamed"
    shutil.copytree(folder_of(package("tiny-llama")), folder)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "renamed"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout


def test_imports_are_relative_or_of_what_it_needs(any_package: ModuleType) -> None:
    known = set(sys.stdlib_module_names) | {"torch", "safetensors"}
    for file in folder_of(any_package).rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                assert {alias.name.partition(".")[0] for alias in node.names} <= known, file
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                assert node.module is not None
                assert node.module.partition(".")[0] in known, file


def test_no_text_holds_the_folders_name(package: Build) -> None:
    built = package("tiny-llama", name="a_name_of_its_own")
    for file in folder_of(built).rglob("*.*"):
        if file.suffix != ".pyc" and file.is_file():
            assert "a_name_of_its_own" not in file.read_text(), file


def test_a_renamed_package_works(
    any_package: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"another_{any_package.__name__}"
    shutil.copytree(folder_of(any_package), tmp_path / name)
    monkeypatch.syspath_prepend(str(tmp_path))
    other = importlib.import_module(name)
    model, tokens = fresh(any_package, torch.float32), prompt(any_package)
    any_package.save(model, tmp_path / "checkpoint")
    with torch.no_grad():
        assert torch.equal(other.load(tmp_path / "checkpoint")(tokens), model(tokens))


# Which columns rope pairs is no constant of a package: it orders the rows of weights as they load.
CHANGES = {
    "eps": ("eps: 1.0e-6", "eps: 0.5"),
    "theta": ("theta: 10000", "theta: 100"),
    "scaling": ("factor: 4,", "factor: 16,"),
    "top_k": ("top_k: 4", "top_k: 3"),
    "scale": ("scale: 4.0", "scale: 1.0"),
    "score": ("score: softmax", "score: sigmoid"),
    "top_groups": ("top_groups: 2", "top_groups: 1"),
}


def test_packages_of_other_constants_keep_their_results(package: Build) -> None:
    """All in one process, with classes and functions of the same names, called in turn."""
    built = {"": package("tiny-deepseek-v2")}
    for key, (old, new) in CHANGES.items():
        assert old in (folder_of(built[""]).parent / "tiny_deepseek_v2.yaml").read_text()
        change = lambda page, old=old, new=new: page.replace(old, new)  # noqa: E731
        built[key] = package("tiny-deepseek-v2", change, f"other_{key}")
    models = {key: fresh(p) for key, p in built.items()}
    tokens = prompt(built[""], 2, 40)
    with torch.no_grad():
        first = {key: model(tokens) for key, model in models.items()}
        again = {key: model(tokens) for key, model in reversed(models.items())}
    for key, logits in first.items():
        assert torch.equal(again[key], logits)
        same = [other for other, found in first.items() if torch.equal(found, logits)]
        assert same == [key]
        assert models[key].load_state_dict(models[""].state_dict())
