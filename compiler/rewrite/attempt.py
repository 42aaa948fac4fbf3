"""An attempt: one run of a pass over a model, its code contained and its applications judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from types import TracebackType
from typing import Any

from ..errors import ProofError
from ..ir.graph import Graph, Node
from ..ir.model import Block, Model, verify
from ..ir.op import Op
from .check import Proof, check_types, check_weights, prove, prove_model
from .guard import Contained, Guard
from .passes import AnyPass, ModelPass, Pass
from .rewriter import ModelRewriter, Refusal, Remark, Rewriter
from .twin import Twin

_MOST = 10_000  # applications to one graph: more is a pass that does not come to an end


@dataclass
class Attempt:
    """What a pass makes of `model`, which it changes, and what it says on the way."""

    model: Model
    ops: Mapping[str, type[Op]]
    target: Any
    guard: Guard
    twin: Callable[[Block], Twin]
    seed: int = 0
    judged: bool = True
    """Check structure after every application; without, the pass just runs."""
    numeric: bool = True
    """Compare numbers as well."""
    proofs: list[Proof] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
    rewriter: Rewriter | None = None
    """The one that the pass has, or had last."""

    def run(self, pass_: AnyPass) -> None:
        """Raises `Contained` for what goes wrong in the pass, and others for what it made."""
        if isinstance(pass_, ModelPass):
            self._model(pass_)
        else:
            for block in self.model.blocks.values():
                self._block(block, pass_)
        if self.judged:
            verify(self.model)

    def place(self, error: BaseException | None = None) -> tuple[str, str]:
        """The block in hand and the node: of an error, what the code that raised it looked at."""
        if self.rewriter is None:
            return "", ""
        block, trace = self.rewriter.block, error.__traceback__ if error is not None else None
        graph = block.graphs.get(self.rewriter.phases)  # none once phases were merged again
        return block.name, (graph and _looked_at(graph, trace)) or self.rewriter.at

    def _model(self, pass_: ModelPass) -> None:
        before = self.model.copy() if self.judged else self.model
        rewriter = ModelRewriter(self.model, self.ops, self.target, self.refusals)
        try:
            self.guard.call(lambda: pass_.run(rewriter))
        finally:
            self.rewriter = rewriter.last
        rewriter.commit()
        if not self.judged or before.state() == self.model.state():
            return
        for name, block in self.model.blocks.items():
            check_types(block)
            check_weights(before.blocks[name], block, pass_.effect)
        verify(self.model)
        _same_ends(before, self.model)
        proof = prove_model(before, self.model, self.seed) if self.numeric else Proof(0, 0.0)
        self.proofs.append(proof)

    def _block(self, block: Block, pass_: Pass) -> None:
        for phases in zip(pass_.phases) if pass_.apart else (pass_.phases,):
            block.split(phases)
        given = block.copy() if self.judged else block
        for phases in [p for p in block.graphs if set(p) <= set(pass_.phases)]:
            rewriter = Rewriter(block, phases, self.ops, self.target, self.refusals, self.remarks)
            rewriter.elsewhere = self._elsewhere(block)
            self.rewriter = rewriter
            before = self.twin(block) if self.judged else None
            known = block.state()
            for _ in chain(self._applications(pass_, rewriter), [None]):
                if block.state() == known:  # as at the end, unless it changed things after all
                    continue
                rewriter.commit()
                known = block.state()
                if before is None:
                    continue
                if list(block.graphs) != list(given.graphs):
                    raise ProofError(f"block {block.name} has no longer the graphs that it had")
                made = self.twin(block)
                if made is before:
                    continue
                if len(block.graphs) == 1:
                    check_types(block)
                _same_signature(block.name, given.graphs[phases], block.graphs[phases])
                self.proofs.append(prove(before, made) if self.numeric else Proof(0, 0.0))
                before = made
        if self.judged:
            # Only now have all phases their new weights and caches, and none the old ones.
            check_types(block)
            check_weights(given, block, pass_.effect)
        block.merge()

    def _elsewhere(self, block: Block) -> frozenset[str]:
        """The tensors that other blocks read; one with an index is of a layer, so of one block."""
        others = (b for b in self.model.blocks.values() if b is not block)
        programs = [param.program for other in others for param in other.params.values()]
        names = {ref.name for program in programs for ref in program.refs()}
        return frozenset(name for name in names if "{" not in name)

    def _applications(self, pass_: Pass, rewriter: Rewriter) -> Iterator[None]:
        steps: Iterator[Any] | None = None
        end = object()

        def step() -> object:
            nonlocal steps
            steps = iter(pass_.applications(rewriter)) if steps is None else steps
            return next(steps, end)

        for _ in range(_MOST):
            if self.guard.call(step) is end:
                return
            yield
        raise Contained(f"it applied {_MOST} times and did not come to an end")


def _same_signature(block: str, before: Graph, after: Graph) -> None:
    """Raise `ProofError` where a pass of graphs changed what a block takes or returns."""
    for what, was, now in (
        ("takes", before.inputs, after.inputs),
        ("returns", before.outputs, after.outputs),
    ):
        wanted, given = ([str(value.type) for value in values] for values in (was, now))
        if wanted != given:
            given_ = ", ".join(given) or "nothing"
            raise ProofError(f"block {block} {what} {given_}, where it was {', '.join(wanted)}")


def _same_ends(before: Model, after: Model) -> None:
    """The first block of a model takes, and the last returns, what they did; so of its draft."""
    if (before.schedule, before.draft) != (after.schedule, after.draft):
        raise ProofError("the schedule is not what it was")
    for chain_ in ([name for name, _ in before.schedule], before.draft):
        for at in (0, -1) if chain_ else ():
            name = chain_[at]
            was, now = (next(iter(m.blocks[name].graphs.values())) for m in (before, after))
            wanted, given = ((g.inputs, g.outputs)[at] for g in (was, now))
            if [value.type for value in wanted] != [value.type for value in given]:
                raise ProofError(f"block {name} {('takes', 'returns')[at]} what it did not before")


def _looked_at(graph: Graph, trace: TracebackType | None) -> str:
    """The node of a graph in the variables of the outermost function that has one."""
    while trace is not None:
        for value in trace.tb_frame.f_locals.values():
            if isinstance(value, Node) and graph.get(value.name) == value:
                return value.name
        trace = trace.tb_next
    return ""
