"""What a pass is: a named transformation whose every application is proved by the pipeline."""

from __future__ import annotations

import dataclasses
import inspect
import re
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

from ..ir.model import PHASES
from .rewriter import ModelRewriter, Rewriter


@dataclass(frozen=True)
class Lossy:
    """The effect of a pass that changes results: by what metric, and how much it may.

    What is lost is measured on a checkpoint, on text that the model before the pass writes: "kl" in
    nats a token, "perplexity" by which part of itself it grows, "logits" as the largest difference
    by the largest logit.
    """

    metric: str
    budget: float

    def __str__(self) -> str:
        return f"lossy, {self.metric} at most {self.budget:g}"


@dataclass(frozen=True)
class Pass(ABC):
    """A transformation of one graph of a block; the fields of the dataclass are its options."""

    name: ClassVar[str]
    effect: ClassVar[str | Lossy] = "exact"
    """"exact": equal in exact arithmetic, weights only moved; "rounding": weights recomputed."""
    phases: ClassVar[tuple[str, ...]] = PHASES
    apart: ClassVar[bool] = False
    """Each phase is given by itself: what is right for one need not be for another."""

    @abstractmethod
    def run(self, rewriter: Rewriter) -> None:
        """Rewrite the graph; say `rewriter.refuse(node, reason)` for what is left alone."""

    def applications(self, rewriter: Rewriter) -> Iterator[None]:
        """Run, stopping after each application so that it can be proved."""
        self.run(rewriter)
        yield

    def options(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


@dataclass(frozen=True)
class StepwisePass(Pass):
    """A pass that yields after each application, so that each is proved, and blamed, by itself."""

    def run(self, rewriter: Rewriter) -> None:
        for _ in self.applications(rewriter):
            pass

    @abstractmethod
    def applications(self, rewriter: Rewriter) -> Iterator[None]:
        """Rewrite the graph, and yield after each change that leaves it whole."""


@dataclass(frozen=True)
class ModelPass(ABC):
    """A transformation of all blocks at once, such as one of what flows between them."""

    name: ClassVar[str]
    effect: ClassVar[str | Lossy] = "exact"
    phases: ClassVar[tuple[str, ...]] = PHASES

    @abstractmethod
    def run(self, rewriter: ModelRewriter) -> None:
        """Rewrite the graphs of all blocks; the whole is one application."""

    def options(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}


AnyPass = Pass | ModelPass

EFFECTS = ("exact", "rounding")
METRICS = ("kl", "logits", "perplexity")


def mistaken(plugin: type[AnyPass]) -> str | None:
    """What is wrong with how a pass describes itself; None where nothing is."""
    name, effect, phases = plugin.name, plugin.effect, plugin.phases
    if not re.fullmatch("[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        return f"is called {name!r}; a name is of small letters and digits, with `-` between words"
    if isinstance(effect, Lossy):
        if effect.metric not in METRICS:
            return f"is lossy by {effect.metric!r}; what is measured is {', '.join(METRICS)}"
    elif effect not in EFFECTS:
        return f"has the effect {effect!r}; there are 'exact', 'rounding' and Lossy(metric, budget)"
    if not isinstance(phases, tuple) or not phases or not set(phases) <= set(PHASES):
        return f"has the phases {phases!r}; it takes a tuple of {', '.join(map(repr, PHASES))}"
    fields = [f for f, t in inspect.get_annotations(plugin).items() if "ClassVar" not in str(t)]
    if fields and "__dataclass_fields__" not in vars(plugin):
        return f"has the option `{fields[0]}`, but is no dataclass; say @dataclass(frozen=True)"
    return None
