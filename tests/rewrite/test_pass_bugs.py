"""The checker against the authors of our passes: it alone finds what they got wrong."""

from __future__ import annotations

import re

import pytest
from archsmith.compiler.components.building.assemble import assemble
from archsmith.compiler.ir.model import Model
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.order import resolve
from archsmith.compiler.rewrite.pipeline import PassFailed, Runner
from archsmith.compiler.spec.load import loads

from . import pass_bugs
from .pass_bugs import BUGS, Bug, of_real
from .test_checker import MUTANTS

REGISTRY = Registry.installed()


def model() -> Model:
    return assemble(loads(pass_bugs.SPEC, "authored.yaml", REGISTRY.components), REGISTRY.ops)


def said(bug: Bug) -> str:
    """What is said of a bug; nothing where it is not found."""
    before = resolve(bug.after.split(","), REGISTRY.passes, {}) if bug.after else []
    given, _ = Runner(REGISTRY.ops, numeric=False).run(model(), before)
    try:
        Runner(REGISTRY.ops).apply(given, of_real(bug, REGISTRY.passes[bug.pass_]()))
    except PassFailed as failed:
        return str(failed)
    return ""


@pytest.mark.parametrize("bug", BUGS, ids=str)
def test_a_bug_of_an_author_is_found_and_named(bug: Bug) -> None:
    assert re.match(f"pass {bug}: .*(?:{bug.says})", said(bug))


@pytest.mark.parametrize("name", sorted({bug.pass_ for bug in BUGS}))
def test_what_the_author_got_right_is_proved(name: str) -> None:
    """So it is the bug that is found, and not the pass."""
    for after in {bug.after for bug in BUGS if bug.pass_ == name}:
        before = resolve(after.split(","), REGISTRY.passes, {}) if after else []
        given, _ = Runner(REGISTRY.ops, numeric=False).run(model(), before)
        _, outcome = Runner(REGISTRY.ops).apply(given, REGISTRY.passes[name]())
        assert outcome.applications > 0
        assert outcome.trials > 0


def test_bugs_are_many_and_of_different_kinds() -> None:
    """Each is a test of its own, here and of the checker: all of them are found."""
    assert len({str(bug) for bug in BUGS} | {str(mutant) for mutant in MUTANTS}) >= 100
