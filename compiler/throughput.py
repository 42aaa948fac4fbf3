"""How fast a package decodes: tokens a second of whole steps, and what part of the bandwidth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .emit.measure import Machine, unlike
from .emit.measure_decoding import CAPTURED, COMPILED, EAGER, Decoding, MeasureDecoding, Steps
from .errors import ArchsmithError
from .machine.roofline import Floor
from .machine.target import Target
from .packaged import Packaged, Watch
from .schedule.forecast import Demand, forecast

BATCHES = (1, 8, 32, 128)
CONTEXT = 1024


@dataclass(frozen=True)
class Rate:
    """Steps with so many rows: what each moves at least, and how long it takes in each way."""

    demand: Demand
    moved: float
    """Bytes: the weights that are wanted, experts as if all were as likely, and the cache."""
    floor: Floor | None
    """Of the target; None: it states too little."""
    seconds: Mapping[str, float]
    """Of a step: "captured", as the package runs it on a GPU, "eager", "compiled", and peers."""
    failed: Mapping[str, str]
    """Why a way has no time."""
    bandwidth: float | None
    """Of the target, where that is what was measured on."""

    @property
    def own(self) -> str:
        """The way in which the package runs a step here."""
        return CAPTURED if CAPTURED in self.seconds else EAGER

    @property
    def taken(self) -> float | None:
        """Seconds of a step as the package runs it here."""
        return self.seconds.get(self.own)

    @property
    def reached(self) -> float | None:
        """The part of the bandwidth at which the least bytes were moved."""
        if not self.taken or not self.bandwidth:
            return None
        return self.moved / self.taken / self.bandwidth

    def tokens(self, way: str) -> float | None:
        """Tokens a second, of all rows."""
        seconds = self.seconds.get(way)
        return self.demand.batch / seconds if seconds else None

    def json(self) -> dict[str, Any]:
        return {
            "batch": self.demand.batch,
            "bytes": self.moved,
            "floor_seconds": self.floor.seconds if self.floor else None,
            "bound": self.floor.bound if self.floor else None,
            "seconds": dict(self.seconds),
            "tokens_per_second": {way: self.tokens(way) for way in self.seconds},
            "bandwidth_reached": self.reached,
            "failed": dict(self.failed),
        }


@dataclass(frozen=True)
class Throughput:
    """What was timed of a package, and on what."""

    package: str
    model: str
    target: Target
    context: int
    machine: Machine
    rates: tuple[Rate, ...]

    def json(self) -> dict[str, Any]:
        return {
            "package": self.package,
            "model": self.model,
            "target": self.target.name,
            "context": self.context,
            "machine": vars(self.machine),
            "rates": [rate.json() for rate in self.rates],
        }


def throughput(
    package: Packaged,
    batches: Sequence[int],
    context: int | None,
    measure: MeasureDecoding,
    watch: Watch,
    *,
    compile: bool = True,
    **settings: Any,
) -> Throughput:
    """Time steps of the package as it stands in its folder, with random weights.

    `settings` are further ones of a `Decoding`. Raises as `measure`, and `ArchsmithError` for a
    context that is too long.
    """
    length = package.demand(1, context or min(CONTEXT, package.max_positions)).context
    target = package.plan.target
    device = "cuda" if target.triton else "cpu"
    ways = (CAPTURED, EAGER, *[COMPILED] * compile)
    results = measure(Decoding(device, package.sources, batches, length, ways, **settings))
    watch.begin("making the model", len(batches))
    machine = next(results)
    assert isinstance(machine, Machine)
    bandwidth = target.bandwidth if unlike(machine, target) is None else None
    rates = []
    for rows, steps in zip(batches, results, strict=True):
        assert isinstance(steps, Steps)
        demand = Demand(rows, length)
        phase = forecast(package.plan, demand).phases["decode"]
        timed = steps.seconds, steps.failed
        rates.append(Rate(demand, phase.moved, phase.ideal, *timed, bandwidth))
        watch.advance(f"{rows} rows, timed")
    if not any(rate.seconds for rate in rates):
        raise ArchsmithError(f"no step ran: {'; '.join(dict.fromkeys(rates[0].failed.values()))}")
    name, model = package.folder.resolve().name, package.plan.model.name
    return Throughput(name, model, target, length, machine, tuple(rates))
