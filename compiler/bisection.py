"""Bisection: the first pass of a pipeline after which a model is not what it was before."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .driver import Compiler
from .errors import ProofError
from .ir.model import Model
from .report import SEED
from .rewrite.check import Differs, prove
from .rewrite.order import written
from .rewrite.passes import AnyPass
from .rewrite.pipeline import Outcome, PassFailed
from .rewrite.twin import Twin
from .spec.schema import Spec


@dataclass(frozen=True)
class Found:
    """A pass after which a model differs; `passed` are those before it, which it may need."""

    item: str | None
    """As in a pipeline; None where the package differs before any pass."""
    passed: tuple[str, ...]
    why: str
    block: str | None = None
    value: str | None = None
    """The first that differs; or, of a pass that raised, the node that it had in hand."""

    def text(self) -> str:
        before = f" after {', '.join(self.passed)}" if self.passed else ""
        return f"{self.item or 'no pass'}{before}: {self.why}"

    def json(self) -> dict[str, Any]:
        return {
            "differs": True,
            "pass": self.item,
            "passed": list(self.passed),
            "why": self.why,
            "block": self.block,
            "value": self.value,
        }


def bisect(
    compiler: Compiler, spec: Spec, passes: Sequence[AnyPass], *, package: bool = False
) -> Found | None:
    """Compare the model after each pass with the one before all; None where none differs.

    Each prefix of the pipeline is judged, one after the other: where two wrong passes cancel, the
    whole agrees. Passes run without proofs, so that one that was let through is found. With
    `package`, the package after each prefix is proved as well.
    """
    model = compiler.build(spec)
    first = last = Twin.of_model(model, SEED)
    outcomes: list[Outcome] = []
    if package and (wrong := _package(compiler, spec, model, outcomes)):
        return Found(None, (), wrong)
    for i, pass_ in enumerate(passes):
        item, passed = written(pass_), tuple(written(p) for p in passes[:i])
        compiler.watch(f"pass {item}")
        try:
            model, outcome = compiler.runner(numeric=False).apply(model, pass_)
        except PassFailed as failed:
            return Found(item, passed, str(failed), failed.block or None, failed.node or None)
        outcomes.append(outcome)
        twin = Twin.of_model(model, SEED)
        try:
            prove(first, twin)
        except ProofError as error:
            where = _where(last, twin) or error
            at = (where.block, where.value) if isinstance(where, Differs) else (None, None)
            return Found(item, passed, str(where), *at)
        if package and (wrong := _package(compiler, spec, model, outcomes)):
            return Found(item, passed, wrong)
        last = twin
    return None


def _where(before: Twin, after: Twin) -> ProofError | None:
    """What one pass changed: earlier ones may have given values another meaning, and rightly."""
    try:
        prove(before, after)
    except ProofError as error:
        return error
    return None


def _package(
    compiler: Compiler, spec: Spec, model: Model, outcomes: Sequence[Outcome]
) -> str | None:
    """In what the package of a model differs from it."""
    compiler.watch("proof of the package")
    try:
        compiler.prove(spec, model, outcomes)
    except ProofError as error:
        return str(error)
    return None
