"""The checker: is a model after a pass the model it was before?"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import GraphError, ProofError
from ..ir.model import Block, Model, verify_block
from .twin import RAGGED, Scenario, Twin, scenarios

TOLERANCE = 1e-9  # relative, in float64: reassociation costs 1e-13, a real change far more


@dataclass(frozen=True)
class Proof:
    """What was compared, and the largest relative error that was seen."""

    trials: int
    error: float


def prove_block(before: Block, after: Block, seed: int = 0) -> Proof:
    """Compare one block with what a pass made of it, as `prove` does."""
    return prove(Twin.of_block(before, seed), Twin.of_block(after, seed))


def prove_model(before: Model, after: Model, seed: int = 0) -> Proof:
    """Compare two models from their tokens to their logits, as `prove` does."""
    return prove(Twin.of_model(before, seed), Twin.of_model(after, seed))


def prove(before: Twin, after: Twin) -> Proof:
    """Compare two twins in every way they may be called; raises `ProofError` where they differ."""
    worst, trials = 0.0, 0
    for scenario in scenarios():
        calls = zip(before.returned(scenario), after.returned(scenario), strict=True)
        for i, (wanted, got) in enumerate(calls):
            seen = _own_tokens(scenario, i)
            for w, g in zip(wanted, got, strict=True):
                error = relative(w[seen], g[seen])
                worst, trials = max(worst, error), trials + 1
                if not error <= TOLERANCE:
                    where = _first_difference(before, after, scenario, i)
                    raise ProofError(f"{where} differs by {error:.2g} in {scenario.name}")
    return Proof(trials, worst)


def check_types(block: Block) -> None:
    """Types, single definitions and caches; raises `ProofError`."""
    try:
        verify_block(block)
    except GraphError as error:
        raise ProofError(f"block {block.name} is broken: {error}") from None


def check_weights(before: Block, after: Block) -> None:
    """Every element of every weight is still read, and held no more often; raises `ProofError`."""
    was, now = _held(before), _held(after)
    unused = [_pattern(name) for name in after.unused]
    for tensor, counts in was.items():
        held = now.get(tensor, np.zeros_like(counts))
        lost = np.any((held == 0) & (counts > 0))
        if lost and not any(pattern.fullmatch(tensor) for pattern in unused):
            raise ProofError(f"block {after.name}: a part of {tensor} is no longer read")
    for tensor, counts in now.items():
        if tensor not in was:
            raise ProofError(f"block {after.name}: {tensor} was not read before")
        if np.any(counts > was[tensor]):
            raise ProofError(f"block {after.name}: a part of {tensor} is held more than once")


def _pattern(name: str) -> re.Pattern[str]:
    """What a tensor's name is once its indices are numbers."""
    return re.compile(re.sub(r"\\{[a-z]+\\}", "[0-9]+", re.escape(name)))


def _held(block: Block) -> dict[str, Any]:
    """How often the parameters hold each element of each checkpoint tensor."""
    offsets: dict[str, int] = {}
    sizes: dict[str, int] = {}

    def number(name: str, shape: tuple[int, ...]) -> Any:
        sizes[name] = int(np.prod(shape))
        offset = offsets.setdefault(name, sum(sizes[n] for n in offsets))
        return (np.arange(sizes[name]) + offset).reshape(shape)

    params = block.params.values()
    read = [p.program.evaluate("probe", number, {"layer": 0}).ravel() for p in params]
    counts: Any = np.bincount(np.concatenate(read), minlength=sum(sizes.values())) if read else []
    return {name: counts[offsets[name] : offsets[name] + sizes[name]] for name in offsets}


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


def _first_difference(before: Twin, after: Twin, scenario: Scenario, call: int) -> str:
    """The first value, in the order of computation, that both have and that differs."""
    was, now = (twin.trace(scenario, twin.inputs())[call] for twin in (before, after))
    for i, (name, _) in enumerate(after.runs):
        for node in after.blocks[name].graph(scenario.calls[call].phase).nodes():
            for value in node.results:
                known = was[i].get(value.name)
                if known is None or known.shape != now[i][value.name].shape:
                    continue
                written = ~(np.isnan(known) & np.isnan(now[i][value.name]))  # slots of a cache
                error = relative(known[written], now[i][value.name][written])
                if node.op is not None and not error <= TOLERANCE:
                    return f"block {name}, value %{value.name}"
    return f"block {after.runs[-1][0]}, what it returns,"
