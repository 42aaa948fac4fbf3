"""Pipelines: passes in order, each application proved, refusals and proofs kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from ..errors import ArchsmithError, GraphError, ProofError
from ..ir.model import Block, Model
from ..ir.op import Op
from ..ir.text import print_model
from ..origin import OURS, Origin, origin
from .attempt import Attempt
from .check import TOLERANCE, prove_phases
from .guard import Contained, Guard, line, said
from .passes import AnyPass, Lossy, mistaken
from .rewriter import Refusal, Remark
from .twin import Twin

ROUNDING = 1e-12  # relative: no sum of float64 that is as long as a probe errs by a tenth of it

Judge = Callable[[Model, Model], Mapping[str, float]]
"""Of a model before and after a pass, what was lost by each metric."""


@dataclass(frozen=True)
class Outcome:
    """What one pass did: how often it applied, what it left alone and why, and the proof."""

    name: str
    effect: str
    options: dict[str, Any]
    applications: int
    refusals: tuple[Refusal, ...]
    trials: int
    error: float
    remarks: tuple[Remark, ...] = ()
    """What applications gained and cost, in words."""
    loss: float | None = None
    """Of a lossy pass, by its own metric, where it was applied."""

    def certificate(self, seed: int) -> dict[str, Any]:
        """What the package says of it, the same on every machine, though measured errors vary."""
        return {
            "pass": self.name,
            "effect": self.effect,
            "options": self.options,
            "applications": self.applications,
            "refusals": [
                {"block": r.block, "node": r.node, "reason": r.reason} for r in self.refusals
            ],
            "proof": {
                "method": self._method(),
                "trials": self.trials,
                "seed": seed,
                "tolerance": TOLERANCE,
                "largest_error": self._at_most() if self.trials else None,
            },
        }

    def _at_most(self) -> float:
        """A bound of the largest error, so far above what rounding makes that it is stable."""
        return ROUNDING if self.error <= ROUNDING / 10 else TOLERANCE

    def _method(self) -> str:
        if self.loss is not None:
            return "loss on a checkpoint"
        return "float64 twin" if self.trials else "structure"


class PassFailed(ProofError):
    """A pass failed, or made something else of the model, which stays as it is in `before`.

    `after` is what it had made by then; `block` and `node`, where they are known, are those that
    it was given or touched last, and `plugin` is what brought it.
    """

    def __init__(
        self,
        pass_: AnyPass,
        why: str,
        before: Model,
        after: Model | None = None,
        place: tuple[str, str] = ("", ""),
    ) -> None:
        self.plugin: Origin | None = origin(type(pass_).__module__)
        theirs = self.plugin is not None and self.plugin.distribution != OURS
        super().__init__(f"pass {pass_.name}{f' of {self.plugin}' if theirs else ''}: {why}")
        self.pass_, self.name, self.before, self.after = pass_, pass_.name, before, after
        self.block, self.node = place


@dataclass(frozen=True)
class Runner:
    """Runs passes over a model; nothing is changed in the model that it is given."""

    ops: Mapping[str, type[Op]]
    target: Any = None
    seed: int = 0
    numeric: bool = True
    """Compare numbers after every application; structure is checked in any case."""
    watch: Callable[[str], None] = lambda name: None
    """Called with the name of each pass before it runs."""
    seconds: float = 60.0
    """For the code of one pass, what is proved of it aside; see `guard` for where it holds."""
    memory: int = 4 << 30
    """Bytes that the code of a pass may take, beside what is in use."""
    judge: Judge | None = None
    """Measures what lossy passes lose; without, none of them may run."""
    _twins: dict[str, tuple[Any, Twin]] = field(default_factory=dict)

    def run(self, model: Model, passes: Sequence[AnyPass]) -> tuple[Model, list[Outcome]]:
        """The model after all passes; before them, its phases are held to one another.

        Raises `ProofError` where phases that share a graph differ, `PassFailed` as `apply` does.
        """
        for block in model.blocks.values() if self.numeric else ():
            if len(block.graphs) == 1:
                prove_phases(self._twin(block))
        outcomes = []
        for pass_ in passes:
            self.watch(pass_.name)
            model, outcome = self.apply(model, pass_)
            outcomes.append(outcome)
        return model, outcomes

    def apply(self, model: Model, pass_: AnyPass) -> tuple[Model, Outcome]:
        """The model after one pass; raises `PassFailed` when an application is not proved.

        So does whatever goes wrong in the code of a pass, and one that does something else when it
        runs again on the same model. Only what a user interrupts is let through.
        """
        if wrong := mistaken(type(pass_)):
            raise PassFailed(pass_, f"{type(pass_).__qualname__} {wrong}", model)
        lossy = isinstance(pass_.effect, Lossy)
        if lossy and self.judge is None:
            raise GraphError(
                f"pass {pass_.name} is lossy ({pass_.effect}), and needs weights to be judged by\n"
                "  = help: `archsmith build --weights CHECKPOINT` measures what it loses"
            )
        done = self._attempt(model, numeric=self.numeric and not lossy)
        with _blamed(model, pass_, done):
            done.run(pass_)
        again = self._attempt(model, judged=False)
        with _blamed(model, pass_, again, "it is not deterministic: when it ran again, "):
            again.run(pass_)
        with _blamed(model, pass_, done):
            _same(done, again)
            loss = self._loss(pass_.effect, model, done) if done.proofs else None
        return done.model, Outcome(
            pass_.name,
            str(pass_.effect),
            pass_.options(),
            len(done.proofs),
            tuple(dict.fromkeys(done.refusals)),
            sum(proof.trials for proof in done.proofs),
            max((proof.error for proof in done.proofs), default=0.0),
            tuple(dict.fromkeys(done.remarks)),
            loss,
        )

    def _loss(self, effect: str | Lossy, before: Model, done: Attempt) -> float | None:
        """What a lossy pass loses by its own metric; raises `ProofError` past its budget."""
        if not isinstance(effect, Lossy) or self.judge is None:
            return None
        losses = self.judge(before, done.model)
        if effect.metric not in losses:
            raise ProofError(f"{effect.metric} is not measured; there are {', '.join(losses)}")
        if not (loss := losses[effect.metric]) <= effect.budget:
            raise ProofError(f"{effect.metric} is {loss:.3g}, its budget is {effect.budget:g}")
        return loss

    def _attempt(self, model: Model, judged: bool = True, numeric: bool = False) -> Attempt:
        guard = Guard(self.seconds, self.memory)
        return Attempt(
            model.copy(), self.ops, self.target, guard, self._twin, self.seed, judged, numeric
        )

    def _twin(self, block: Block) -> Twin:
        """The twin of a block as it is now: the last one, if nothing has changed since."""
        state = block.state()
        if self._twins.get(block.name, ((),))[0] != state:
            self._twins[block.name] = state, Twin.of_block(block.copy(), self.seed)
        return self._twins[block.name][1]


@contextmanager
def _blamed(before: Model, pass_: AnyPass, attempt: Attempt, why: str = "") -> Iterator[None]:
    """Let what goes wrong in an attempt be a failure of its pass, with its place."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except Contained as error:
        block, node = place = attempt.place(error.__cause__)
        where = f"block {block}{f', at %{node}' if node else ''}: " if block else ""
        at = line(error.__cause__, type(pass_).__module__) if error.__cause__ else ""
        raise PassFailed(
            pass_, f"{why}{where}{error}{f', at {at}' * bool(at)}", before, attempt.model, place
        ) from error
    except ArchsmithError as error:
        block, node = place = attempt.place()
        change = f" (after a change at %{node})" if node else ""
        raise PassFailed(pass_, f"{why}{error}{change}", before, attempt.model, place) from error
    except BaseException as error:  # what it made is so wrong that it cannot be looked at
        place = attempt.place(error)
        raise PassFailed(pass_, f"{why}{said(error)}", before, attempt.model, place) from error


def _same(first: Attempt, second: Attempt) -> None:
    """Raise `ProofError` where two runs of a pass on the same model differ."""
    texts: list[list[str]] = [[], []]
    if first.model.state() != second.model.state():
        texts = [print_model(attempt.model).splitlines() for attempt in (first, second)]
    said_ = [[*map(str, (*a.refusals, *a.remarks))] for a in (first, second)]
    for what, (was, now) in (("made", texts), ("said", said_)):
        if was != now:
            pairs = zip([*was, "nothing"], [*now, "nothing"], strict=False)
            one, other = next((a.strip(), b.strip()) for a, b in pairs if a != b)
            raise ProofError(f"it is not deterministic: it {what} `{one}`, and then `{other}`")
