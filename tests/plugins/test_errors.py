"""Plugins that cannot be used: whose it is, and what is wrong with it, is said."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from archsmith.compiler.cli import main
from archsmith.compiler.errors import PluginError
from archsmith.compiler.plugins import API, Registry
from click.testing import CliRunner

Install = Callable[..., None]

PASS = """
from dataclasses import dataclass
from archsmith.compiler.rewrite.passes import Pass
from archsmith.compiler.rewrite.pattern import RewritePass

"""
OP = """
from archsmith.compiler.ir.op import Op

class Add(Op):
    name = "{name}"
    def infer(self, x): ...
    def reference(self, x): ...
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a distribution where Python finds it, as pip would; and takes it away again."""
    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)

    def put(name: str = "sample", module: str = "", init: str = "", value: str = "") -> None:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(init)
        (tmp_path / name / "thing.py").write_text(module)
        about = tmp_path / f"{name}-2.5.dist-info"
        about.mkdir()
        (about / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: their-{name}\nVersion: 2.5\n"
        )
        entry = f"[archsmith.plugins]\nentry_{name} = {value or name}\n"
        (about / "entry_points.txt").write_text(entry)

    yield put
    for module in set(sys.modules) - known:
        if module.partition(".")[0] in ("sample", "other"):
            del sys.modules[module]


def refused(says: str) -> None:
    with pytest.raises(PluginError, match=says) as failed:
        Registry.installed()
    assert failed.value.exit_code == 4


OF = r"^plugin entry_sample of their-sample 2\.5: "


def test_what_is_right_is_installed(install: Install) -> None:
    install(module=OP.format(name="more"), init=f"ARCHSMITH_API = {API}")
    assert "more" in Registry.installed().ops


def test_a_clash_names_both_distributions(install: Install) -> None:
    install(module=OP.format(name="more"))
    install("other", module=OP.format(name="more"))
    both = (
        r"other\.thing \(their-other 2\.5, entry point entry_other\) and "
        r"sample\.thing \(their-sample 2\.5, entry point entry_sample\)$"
    )
    refused(f"{OF}op 'more' is defined by both {both}")


def test_a_clash_with_ours(install: Install) -> None:
    install(module=OP.format(name="add"))
    refused(
        rf"{OF}.*archsmith\.compiler\.ops\.elementwise \(archsmith .*, entry point ops\) and sam"
    )


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"module": "import gone"}, "sample does not load: ModuleNotFoundError: .*gone"),
        ({"module": "raise SystemExit(0)"}, "sample does not load: SystemExit: 0"),
        ({"init": "1 / 0"}, "sample does not load: ZeroDivisionError"),
        ({"value": "nowhere"}, "nowhere does not load: ModuleNotFoundError: .*nowhere"),
        ({"value": "sample.thing"}, "sample.thing is no package; an entry names the one"),
        ({"value": "sample:answer", "init": "answer = 42"}, "sample:answer is no package"),
        (
            {"init": "ARCHSMITH_API = 2"},
            r"wants the API 2 of archsmith, and archsmith .* offers 1$",
        ),
        ({"init": "ARCHSMITH_API = 2", "module": "import gone"}, "wants the API 2"),
    ],
    ids=lambda given: str(given)[:40],
)
def test_what_does_not_load(install: Install, given: dict[str, str], says: str) -> None:
    install(**given)
    refused(OF + says if "value" in given or "does" in says else f"{OF}sample {says}")


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (
            'class Mine(Pass):\n    name = "mine"',
            "Mine is called 'mine', but is no pass yet: it does not define run$",
        ),
        (
            "class Mine(Pass):\n    def run(self, rewriter): ...",
            "Mine is a pass without a `name`; one that others derive from begins with _$",
        ),
        ("class Mine(RewritePass):\n    def pattern(self, op, x): ...", "Mine is a pass without"),
        (
            'class Mine(Pass):\n    name = "mine"\n    size: int = 4\n    def run(self, r): ...',
            "Mine has the option `size`, but is no dataclass",
        ),
    ],
)
def test_an_oversight(install: Install, module: str, says: str) -> None:
    install(module=PASS + module)
    refused(f"{OF}sample.thing.{says}")


def test_bases_are_no_oversight(install: Install) -> None:
    bases = """
from abc import ABC
from typing import ClassVar

class _Private(RewritePass): ...

class Shared(RewritePass):
    width: ClassVar[int] = 4

@dataclass(frozen=True)
class Mine(Shared):
    name = "mine-own"
    size: int = 4

class Plan(Pass, ABC):
    name = "a-plan"
"""
    install(module=PASS + bases)
    passes = Registry.installed().passes
    assert "mine-own" in passes
    assert "a-plan" not in passes


def test_the_command_line_says_it(install: Install) -> None:
    install(module="raise SystemExit(0)")
    result: Any = CliRunner().invoke(main, ["list", "passes"])
    assert result.exit_code == 4
    assert result.stderr.startswith("error: plugin entry_sample of their-sample 2.5: ")
