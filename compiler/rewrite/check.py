"""The checker: is a model after a pass the model it was before?"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import GraphError, ProofError
from ..ir.computed import computed, gains, held
from ..ir.model import Block, Model, verify_block
from ..ir.weights import Program
from .twin import LAYER, RAGGED, ROWS, Scenario, Twin, scenarios

TOLERANCE = 1e-9  # relative, in float64: reassociation costs 1e-13, a real change far more


@dataclass(frozen=True)
class Proof:
    """What was compared, and the largest relative error that was seen."""

    trials: int
    error: float


class Differs(ProofError):
    """Two twins give different numbers; `value` is the first, or none where only results differ."""

    def __init__(self, block: str, value: str | None, error: float, scenario: str) -> None:
        what = f"value %{value}" if value else "what it returns,"
        super().__init__(f"block {block}, {what} differs by {error:.2g} in {scenario}")
        self.block, self.value, self.error, self.scenario = block, value, error, scenario


def prove_block(before: Block, after: Block, seed: int = 0) -> Proof:
    """Compare one block with what a pass made of it, as `prove` does."""
    return prove(Twin.of_block(before, seed), Twin.of_block(after, seed))


def prove_model(before: Model, after: Model, seed: int = 0) -> Proof:
    """Compare two models from their tokens to their logits, as `prove` does."""
    return prove(Twin.of_model(before, seed), Twin.of_model(after, seed))


def prove(before: Twin, after: Twin) -> Proof:
    """Compare two twins in every way they may be called; raises `ProofError` where they differ.

    Once more in training with a larger stream, since a clamp or a cap acts on what is large alone.
    """
    proofs = [_prove(before, after, scenario) for scenario in scenarios()]
    full = [scenario for scenario in scenarios() if not scenario.cached]
    with np.errstate(all="ignore"):  # what overflows in both is nothing to compare
        proofs += [_prove(before.loud, after.loud, scenario) for scenario in full]
    return Proof(sum(p.trials for p in proofs), max(p.error for p in proofs))


def _prove(before: Twin, after: Twin, scenario: Scenario) -> Proof:
    """Compare in one scenario; of a loud twin, only what does not overflow before the pass."""
    worst, trials = 0.0, 0
    after.results.older = before.results.made
    calls = zip(before.returned(scenario), after.returned(scenario), strict=True)
    for i, (wanted, got) in enumerate(calls):
        seen = _own_tokens(scenario, i)
        for w, g in zip(wanted, got, strict=True):
            if before.scale != 1 and not np.all(np.isfinite(w[seen])):
                continue
            error = relative(w[seen], g[seen])
            worst, trials = max(worst, error), trials + 1
            if not error <= TOLERANCE:
                block, value = _first_difference(before, after, scenario, i)
                raise Differs(block, value, error, scenario.name)
    after.results.older = {}
    return Proof(trials, worst)


def prove_phases(twin: Twin) -> Proof:
    """Hold calls with a cache to one full pass over the same tokens, which has none.

    For blocks of which all phases share a graph, so that they are to mean the same. Comparing a
    model with what a pass made of it does not notice a component that caches wrongly; this does.
    """
    worst, trials = 0.0, 0
    for scenario in scenarios():
        if not scenario.cached:
            continue
        whole = twin.whole(scenario)
        for i, (call, got) in enumerate(zip(scenario.calls, twin.returned(scenario), strict=True)):
            seen = _own_tokens(scenario, i)
            for w, g in zip(whole, got, strict=True):
                error = relative(w[np.arange(ROWS)[:, None], call.positions][seen], g[seen])
                worst, trials = max(worst, error), trials + 1
                if not error <= TOLERANCE:
                    name = twin.runs[-1][0]
                    raise Differs(name, None, error, f"{scenario.name} from one full pass")
    return Proof(trials, worst)


def check_types(block: Block) -> None:
    """Types, single definitions and caches; raises `ProofError`."""
    try:
        verify_block(block)
    except GraphError as error:
        raise ProofError(f"block {block.name} is broken: {error}") from None


def check_weights(before: Block, after: Block, effect: object = "exact") -> None:
    """Every element of every weight is still read, and held no more often; raises `ProofError`.

    What is computed from a tensor holds it; what it is computed with, such as a gain, is only read,
    and may be so for several. Of that no pass that is exact makes anything new.
    """
    if before.params == after.params:
        return
    if effect == "exact":
        known = {step for param in before.params.values() for step in computed(param.program)}
        for name, param in after.params.items():
            for step in computed(param.program):
                if step not in known:
                    why = f"%{name} is computed, and not only moved: {step}"
                    raise ProofError(
                        f"block {after.name}: an exact pass computes no weights; {why}"
                    )
    was, now = _read(before), _read(after)
    unused = [_pattern(name) for name in after.unused]
    for tensor, read in was.items():
        lost = np.any((now[tensor].times == 0) & (read.times > 0)) if tensor in now else True
        if (
            lost
            and effect in ("exact", "rounding")
            and not any(pattern.fullmatch(tensor) for pattern in unused)
        ):
            raise ProofError(f"block {after.name}: a part of {tensor} is no longer read")
    for tensor, read in now.items():
        if tensor not in was:
            raise ProofError(f"block {after.name}: {tensor} was not read before")
        if np.any(read.held > was[tensor].held):
            raise ProofError(f"block {after.name}: a part of {tensor} is held more than once")


def _pattern(name: str) -> re.Pattern[str]:
    """What a tensor's name is once its indices are numbers."""
    return re.compile(re.sub(r"\\{[a-z]+\\}", "[0-9]+", re.escape(name)))


@dataclass(frozen=True)
class _Read:
    """How often parameters read each element of a tensor, and how many times they hold it."""

    times: Any
    held: Any


def _read(block: Block) -> dict[str, _Read]:
    """What the parameters read of each checkpoint tensor."""
    offsets: dict[str, int] = {}
    sizes: dict[str, int] = {}

    def number(name: str, shape: tuple[int, ...]) -> Any:
        sizes[name] = int(np.prod(shape))
        offset = offsets.setdefault(name, sum(sizes[n] for n in offsets))
        return (np.arange(sizes[name]) + offset).reshape(shape)

    def read(programs: Iterable[Program]) -> Any:
        found = [held(p).evaluate("probe", number, {"layer": LAYER}).ravel() for p in programs]
        return np.concatenate(found) if found else np.zeros(0, int)

    programs = [param.program for param in block.params.values()]
    holding = [p for p in programs if all(step.holds for step in computed(p))]
    kept, beside = read(holding), read(by for program in programs for by in gains(program))
    holds, reads = (np.bincount(x, minlength=sum(sizes.values())) for x in (kept, beside))
    times = holds + reads
    parts = {name: slice(offsets[name], offsets[name] + sizes[name]) for name in offsets}
    return {name: _Read(times[part], holds[part]) for name, part in parts.items()}


def relative(wanted: Any, got: Any) -> float:
    """The largest difference, by the largest value wanted; NaN where either has one."""
    if wanted.shape != got.shape:
        return float("inf")
    return float(
        np.max(np.abs(wanted - got), initial=0.0) / (np.max(np.abs(wanted), initial=0.0) + 1e-300)
    )


def _own_tokens(scenario: Scenario, call: int) -> Any:
    """The entries [B, T] of a call that are no padding."""
    if scenario.name == "ragged" and call == 0:
        return np.arange(max(RAGGED)) < np.array(RAGGED)[:, None]
    return np.s_[:]


def _first_difference(
    before: Twin, after: Twin, scenario: Scenario, call: int
) -> tuple[str, str | None]:
    """The block and the first value, as they are computed, that both have and that differs."""
    was, now = (twin.trace(scenario, twin.inputs())[call] for twin in (before, after))
    for i, (name, _) in enumerate(after.every):
        for node in after.blocks[name].graph(scenario.calls[call].phase).nodes():
            for value in node.results:
                known = was[i].get(value.name)
                if known is None or known.shape != now[i][value.name].shape:
                    continue
                written = ~(np.isnan(known) & np.isnan(now[i][value.name]))  # slots of a cache
                error = relative(known[written], now[i][value.name][written])
                if node.op is not None and not error <= TOLERANCE:
                    return name, value.name
    return after.every[-1][0], None
