"""What a plan will cost: parameters, cache, and how soon its kernels can be done at best."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..ir.cost import USUAL_CONTEXT, Cost, Sizes
from ..ir.count import (
    active_parameters,
    cache_bytes,
    held_bytes,
    moved_bytes,
    parameters,
    runs,
    weight_bytes,
)
from ..ir.cut import best_cache_bytes
from ..ir.types import BYTES
from ..machine.roofline import Floor, computed_in
from ..machine.target import Target
from .lines import Line, asked, lines
from .plan import Plan, stale

PHASES = ("prefill", "decode")


@dataclass(frozen=True)
class Demand:
    """What a package is to be used for."""

    batch: int = 1
    context: int = USUAL_CONTEXT
    """Tokens of each row: all new in prefill, all but one already cached in decode."""
    cache_bits: int | None = None
    """Of a number in the cache, where it is not held in the model's dtype."""

    def sizes(self, phase: str) -> Sizes:
        return Sizes.usual(phase, self.batch, self.context)


@dataclass(frozen=True)
class Phase:
    """A call of the whole model."""

    tokens: int
    """New ones, of all rows."""
    lines: tuple[Line, ...]
    moved: float
    """Bytes that any kernels must move: the weights that are wanted, and the cache."""
    ideal: Floor | None
    """Of any kernels: weights and cache are moved once, nothing else is, nothing is launched."""

    @property
    def work(self) -> Cost:
        return sum((line.work * line.times for line in self.lines), Cost())

    @property
    def launches(self) -> int:
        return sum(line.cost.launches * line.times for line in self.lines)

    @property
    def seconds(self) -> float | None:
        """The kernels' least times, one after another."""
        known = [line.floor.seconds * line.times for line in self.lines if line.floor]
        return sum(known) if len(known) == len(self.lines) else None

    @property
    def spent(self) -> dict[str, float]:
        """Seconds by what binds the kernels that they are spent on."""
        found = dict.fromkeys(("memory", "compute", "launches"), 0.0)
        for line in self.lines:
            if line.floor:
                found[line.floor.bound] += line.floor.seconds * line.times
        return found

    @property
    def tokens_per_second(self) -> float | None:
        return self.tokens / self.seconds if self.seconds else None


@dataclass(frozen=True)
class Forecast:
    """All that is known of a package before it runs."""

    model: str
    dtype: str
    target: Target
    demand: Demand
    parameters: int
    active: int
    """The parameters that serve one token."""
    weight_bytes: int
    cache_bytes: float
    """Of one more token, in all layers that a call runs."""
    cache_best_bytes: float
    """The same, were only what attention's keys and values can be made from again held."""
    held_bytes: float
    """The cache of all rows, with their whole context."""
    phases: dict[str, Phase]
    tiles: tuple[int, int]
    """Of the numbers of rows that Triton kernels have tiles for, those measured, and all."""
    stale: tuple[str, ...]
    """What tables of measured tiles say that is not used, and why."""

    @property
    def fits(self) -> bool | None:
        """Whether weights and cache fit the target's memory; None where that is not stated."""
        total = self.weight_bytes + self.held_bytes
        return total <= self.target.memory if self.target.memory else None

    def json(self) -> dict[str, Any]:
        return {
            "model": self.model,
            "dtype": self.dtype,
            "target": self.target.name,
            "batch": self.demand.batch,
            "context": self.demand.context,
            "parameters": self.parameters,
            "active_parameters": self.active,
            "weight_bytes": self.weight_bytes,
            "cache_bytes_per_token": self.cache_bytes,
            "cache_bytes_per_token_at_best": self.cache_best_bytes,
            "cache_bytes_held": self.held_bytes,
            "fits": self.fits,
            "tiles_measured": self.tiles[0],
            "tiles": self.tiles[1],
            "stale": list(self.stale),
            "phases": {name: _json(phase) for name, phase in self.phases.items()},
        }


def forecast(plan: Plan, demand: Demand = Demand()) -> Forecast:
    """Add up what the kernels of a plan take, at the model's real sizes."""
    model = plan.model
    held_in = 1.0
    kernels = *plan.launched(), *dict.fromkeys(plan.gradients.values())
    uses = [use for kernel in kernels for use in plan.uses(kernel)]
    tiles = [config for use in uses for _, config in use.tiles]
    if demand.cache_bits is not None:
        held_in = demand.cache_bits / (8 * BYTES[model.dtype])
    return Forecast(
        model.name,
        model.dtype,
        plan.target,
        demand,
        parameters(model),
        active_parameters(model),
        weight_bytes(model),
        held_in * cache_bytes(model),
        held_in * best_cache_bytes(model),
        held_in * held_bytes(model, Sizes(demand.batch, 1, demand.context)),
        {name: _phase(plan, name, demand.sizes(name)) for name in PHASES},
        (sum(config.measured for config in tiles), len(tiles)),
        tuple(stale(plan)),
    )


def _phase(plan: Plan, name: str, sizes: Sizes) -> Phase:
    found = tuple(lines(plan, name, sizes))
    moved = moved_bytes(plan.model, name, sizes)
    return Phase(sizes.rows, found, moved, _ideal(plan, name, sizes, moved))


def _ideal(plan: Plan, phase: str, sizes: Sizes, moved: float) -> Floor | None:
    """The time that no kernels can go below: weights and cache must be moved, products computed."""
    model, target = plan.model, plan.target
    compute = 0.0
    for name, times in runs(model).items():
        graph = model.blocks[name].graph(phase)
        for node in graph.nodes():
            if node.op is None:
                continue
            types = tuple(value.type for value in graph.operands(node))
            flops = node.op.cost(asked(name, phase, sizes), *types).flops
            peak = target.peak.get(computed_in(types))
            if flops and not peak:
                return None
            compute += times * flops / peak if peak else 0.0
    if not target.bandwidth:
        return None
    memory = moved / target.bandwidth
    return Floor(max(compute, memory), "compute" if compute > memory else "memory")


def _json(phase: Phase) -> dict[str, Any]:
    work = phase.work
    return {
        "tokens": phase.tokens,
        "flops": work.flops,
        "flops_per_token": work.flops / phase.tokens,
        "bytes": work.bytes,
        "launches": phase.launches,
        "bytes_of_any_kernels": phase.moved,
        "seconds": phase.seconds,
        "seconds_by_bound": phase.spent,
        "tokens_per_second": phase.tokens_per_second,
        "seconds_of_any_kernels": phase.ideal.seconds if phase.ideal else None,
        "ops": [
            {
                "block": line.block,
                "node": line.node,
                "op": line.op,
                "kernel": line.kernel,
                "times": line.times,
                "flops": line.work.flops,
                "bytes": line.work.bytes,
                "launches": line.cost.launches,
                "seconds": line.floor.seconds if line.floor else None,
                "bound": line.floor.bound if line.floor else None,
                "refusals": dict(line.refusals),
            }
            for line in phase.lines
        ],
    }
