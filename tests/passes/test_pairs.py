"""Every pass on small graphs: each `.ir` file holds pairs of text, before and after its pass.

`archsmith.compiler.testing` reads them, and says how they are written.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.passes import Lossy
from archsmith.compiler.testing import Case, cases

HERE = Path(__file__).parent
PLUGIN = HERE.parents[1] / "examples" / "custom_pass" / "tests"
FILES = sorted([*HERE.glob("*.ir"), *PLUGIN.glob("*.ir")])


@pytest.mark.parametrize("case", [case for file in FILES for case in cases(file)], ids=str)
def test_pair(case: Case, registry: Registry) -> None:
    plugin = registry.passes[case.name]
    lossy = isinstance(plugin.effect, Lossy)
    outcome = case.check(plugin(), lossy=lossy, registry=registry)
    assert case.title.startswith("Leaves ") == (case.before == case.after)
    assert (outcome.applications > 0) == (case.before != case.after)
    assert len(outcome.refusals) >= len(case.refuses)


def test_every_pass_of_ours_has_a_file(registry: Registry) -> None:
    ours = {n for n, p in registry.passes.items() if p.__module__.startswith("archsmith.")}
    assert {file.stem.replace("_", "-") for file in FILES if file.parent == HERE} == ours


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_every_file_shows_a_use_and_a_refusal(file: Path) -> None:
    found = cases(file)
    assert any(case.before != case.after for case in found)
    assert any(case.before == case.after for case in found)
