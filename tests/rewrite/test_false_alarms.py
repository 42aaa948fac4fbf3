"""What is right is never called wrong: all passes that keep results, in two orders.

Some random models of each kind; `make fuzz` takes a thousand, other ones each time.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from archsmith.compiler.ir.model import Model
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.passes import Lossy
from archsmith.compiler.rewrite.pipeline import Runner
from hypothesis import given
from hypothesis import strategies as st
from strategies import assembled, grown

REGISTRY = Registry.installed()
PIPELINE = max(REGISTRY.pipelines.values(), key=len)
PASSES = [
    name
    for name in dict.fromkeys([*PIPELINE, *sorted(REGISTRY.passes)])
    if name in REGISTRY.passes and not isinstance(REGISTRY.passes[name].effect, Lossy)
]
"""In the order of the longest pipeline, and those after it that stand in none."""


@pytest.fixture(scope="module")
def seen() -> Iterator[list[float]]:
    """The largest error of each run; said at the end."""
    errors: list[float] = []
    yield errors
    print(f"\n{len(errors)} runs of {len(PASSES)} passes, the largest error {max(errors):.2g}")


def proved(model: Model, order: list[str]) -> float:
    passes = [REGISTRY.passes[name]() for name in order]
    _, outcomes = Runner(REGISTRY.ops).run(model, passes)
    for outcome in outcomes:
        assert (outcome.trials > 0) == (outcome.applications > 0)
    return max(outcome.error for outcome in outcomes)


def small(error: float) -> bool:
    """Far below what is taken for a difference, so that none is near to one."""
    return error < 1e-10


def test_all_passes_take_part() -> None:
    assert set(PIPELINE) <= set(PASSES)
    assert len(PASSES) >= 16


@given(model=assembled(REGISTRY, largest=3_000), order=st.permutations(PASSES))
def test_no_false_alarm_on_random_specs(seen: list[float], model: Model, order: list[str]) -> None:
    for names in (PASSES, order):
        seen.append(proved(model, names))
        assert small(seen[-1])


@given(model=grown(REGISTRY), order=st.permutations(PASSES))
def test_no_false_alarm_on_random_graphs(seen: list[float], model: Model, order: list[str]) -> None:
    for names in (PASSES, order):
        seen.append(proved(model, names))
        assert small(seen[-1])
