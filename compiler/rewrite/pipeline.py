"""Pipelines: passes in order, each application proved, refusals and proofs kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..errors import ArchsmithError, GraphError, ProofError
from ..ir.model import Block, Model, verify
from ..ir.op import Op
from ..ir.text import print_block, print_model
from .check import TOLERANCE, Proof, check_types, check_weights, prove, prove_model
from .passes import Lossy, ModelPass, Pass
from .rewriter import ModelRewriter, Refusal, Remark, Rewriter
from .twin import Twin

AnyPass = Pass | ModelPass


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

    def certificate(self, seed: int) -> dict[str, Any]:
        """What the package says of it; measured errors vary by machine and stay out."""
        return {
            "pass": self.name,
            "effect": self.effect,
            "options": self.options,
            "applications": self.applications,
            "refusals": [
                {"block": r.block, "node": r.node, "reason": r.reason} for r in self.refusals
            ],
            "proof": {
                "method": "float64 twin" if self.trials else "structure",
                "trials": self.trials,
                "seed": seed,
                "tolerance": TOLERANCE,
            },
        }


class PassFailed(ProofError):
    """A pass made something else of the model; `before` is the model it was given."""

    def __init__(self, name: str, why: str, before: Model) -> None:
        super().__init__(f"pass {name}: {why}")
        self.name, self.before = name, before


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
    _twins: dict[str, tuple[str, Twin]] = field(default_factory=dict)

    def run(self, model: Model, passes: Sequence[AnyPass]) -> tuple[Model, list[Outcome]]:
        outcomes = []
        for pass_ in passes:
            self.watch(pass_.name)
            model, outcome = self.apply(model, pass_)
            outcomes.append(outcome)
        return model, outcomes

    def apply(self, model: Model, pass_: AnyPass) -> tuple[Model, Outcome]:
        """The model after one pass; raises `PassFailed` when an application is not proved."""
        if isinstance(pass_.effect, Lossy):
            raise GraphError(f"pass {pass_.name} is lossy, and needs weights to be judged by")
        after = model.copy()
        remarks: list[Remark] = []
        try:
            if isinstance(pass_, ModelPass):
                proofs, refusals = self._run_model(after, pass_)
            else:
                proofs, refusals = self._run_blocks(after, pass_, remarks)
            verify(after)
        except PassFailed:
            raise
        except ArchsmithError as error:
            raise PassFailed(pass_.name, str(error), model) from error
        except Exception as error:  # a plugin's own bug: say whose
            why = f"{type(error).__name__}: {error}"
            raise PassFailed(pass_.name, why, model) from error
        return after, Outcome(
            pass_.name,
            str(pass_.effect),
            pass_.options(),
            len(proofs),
            tuple(dict.fromkeys(refusals)),
            sum(proof.trials for proof in proofs),
            max((proof.error for proof in proofs), default=0.0),
            tuple(dict.fromkeys(remarks)),
        )

    def _run_model(self, after: Model, pass_: ModelPass) -> tuple[list[Proof], list[Refusal]]:
        before = after.copy()
        rewriter = ModelRewriter(after, self.ops, self.target)
        pass_.run(rewriter)
        rewriter.commit()
        if print_model(before) == print_model(after):
            return [], rewriter.refusals
        for name, block in after.blocks.items():
            check_types(block)
            check_weights(before.blocks[name], block)
        verify(after)
        proof = prove_model(before, after, self.seed) if self.numeric else Proof(0, 0.0)
        return [proof], rewriter.refusals

    def _run_blocks(
        self, after: Model, pass_: Pass, remarks: list[Remark]
    ) -> tuple[list[Proof], list[Refusal]]:
        proofs: list[Proof] = []
        refusals: list[Refusal] = []
        for block in after.blocks.values():
            block.split(pass_.phases)
            given = block.copy()
            for phases in [p for p in block.graphs if set(p) <= set(pass_.phases)]:
                before = self._twin(block)
                rewriter = Rewriter(block, phases, self.ops, self.target, refusals, remarks)
                for _ in pass_.applications(rewriter):
                    rewriter.commit()
                    made = self._twin(block)
                    if made is before:
                        continue
                    if len(block.graphs) == 1:
                        check_types(block)
                    proofs.append(prove(before, made) if self.numeric else Proof(0, 0.0))
                    before = made
            # Only now have all phases their new weights and caches, and none the old ones.
            check_types(block)
            check_weights(given, block)
            block.merge()
        return proofs, refusals

    def _twin(self, block: Block) -> Twin:
        """The twin of a block as it is now: the last one, if nothing has changed since."""
        text = print_block(block)
        if self._twins.get(block.name, ("",))[0] != text:
            self._twins[block.name] = text, Twin.of_block(block.copy(), self.seed)
        return self._twins[block.name][1]
