"""A comparison: our kernels and peers timed in turns, in one process for each case."""

from __future__ import annotations

import importlib
import importlib.metadata
import pkgutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

from archsmith.compiler.emit.measure import Job, Machine, Measure, Times, Variant, timed, unlike
from archsmith.compiler.errors import ProofError
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.machine.roofline import Floor, floor
from archsmith.compiler.machine.target import Target
from archsmith.compiler.plugins import Registry

from . import ours
from .cases import Case
from .peers import installed

OURS, PYTORCH, COMPILED = "ours", "PyTorch", "compiled PyTorch"
PEERS = Path(__file__).with_name("peers")
DIFFERS = {"bfloat16": 2.0**-5, "float16": 2.0**-8}  # four roundings; else of float32's sums
SUMS = 1e-4
NARROW = 2.0**-4  # of what is rounded to float8 between products: a neighbour is as near there
COPIED, MULTIPLIED = 1 << 30, 8192  # elements of a copy, rows and columns of a product


@dataclass(frozen=True)
class Peer:
    """Somebody else's kernels, of which an adapter is in `peers/`."""

    name: str
    adapter: ModuleType
    """Has a function for each op: attributes -> what is done to operands once, what is timed."""

    @property
    def stem(self) -> str:
        return self.adapter.__name__.rpartition(".")[2]

    @property
    def folder(self) -> Path:
        assert self.adapter.__file__
        return Path(self.adapter.__file__).parent

    def computes(self, case: Case) -> bool:
        op = case.op.name
        return hasattr(self.adapter, op) and (not case.gradients or op in self.adapter.GRADIENTS)

    @property
    def module(self) -> str | None:
        """What its functions are taken from: the first of its modules that is installed."""
        return installed.first(self.adapter.MODULES)

    def absent(self) -> str | None:
        """Why it cannot be asked, or None."""
        return None if self.module else f"not installed: {self.adapter.INSTALL}"

    def version(self) -> str | None:
        """Of what it was taken from, which is named where it is not the peer's own package."""
        if self.module is None:
            return None
        package = self.module.partition(".")[0]
        holders = importlib.metadata.packages_distributions().get(package)
        if not holders:
            return None
        version = importlib.metadata.version(holders[0])
        own = package == self.adapter.MODULES[0].partition(".")[0]
        return version if own else f"of {holders[0]} {version}"


@dataclass(frozen=True)
class Row:
    """One call, and what each way to compute it took."""

    case: Case
    sizes: Sizes
    floor: Floor | None
    """None: it is timed on something else than the floor would be of."""
    seconds: Mapping[str, float]
    failed: Mapping[str, str]
    """Why a way has no time: what it computes may be something else."""
    differ: Mapping[str, float]
    uncaptured: Sequence[str]

    def json(self) -> dict[str, Any]:
        work = self.case.work(self.sizes)
        return {
            "case": self.case.name,
            "gradients": list(self.case.gradients),
            "operands": [str(type) for type in self.case.operands],
            "batch": self.sizes.batch,
            "tokens": self.sizes.tokens,
            "flops": work.flops,
            "bytes": work.bytes,
            "floor_seconds": self.floor.seconds if self.floor else None,
            "bound": self.floor.bound if self.floor else None,
            "seconds": dict(self.seconds),
            "failed": dict(self.failed),
            "differ": dict(self.differ),
            "uncaptured": list(self.uncaptured),
        }


@dataclass(frozen=True)
class Comparison:
    """All that was timed in a run, and on what."""

    machine: Machine
    target: Target
    measured: bool
    """Whether floors are of rates measured in this run, and not of the target's data sheet."""
    peers: Mapping[str, str | None]
    """Versions."""
    rows: Sequence[Row]


def installed_peers(names: Sequence[str] | None = None) -> list[Peer]:
    """Those in `peers/`, or those of these stems."""
    package = f"{__name__.rpartition('.')[0]}.peers"
    stems = sorted(module.name for module in pkgutil.iter_modules([str(PEERS)]))
    modules = [importlib.import_module(f"{package}.{stem}") for stem in stems]
    peers = [Peer(module.NAME, module) for module in modules if hasattr(module, "NAME")]
    return [peer for peer in peers if names is None or peer.stem in names]


def compare(
    cases: Sequence[Case],
    peers: Sequence[Peer],
    registry: Registry,
    target: Target,
    measure: Measure,
    **settings: Any,
) -> Comparison:
    """Time every call of every case; `settings` are those of a `Job`.

    A case whose process dies has no times; the others still have. Raises `EnvironmentMissing`
    without torch.
    """
    device = "cuda" if target.triton else "cpu"
    machine, chip, measured = _ceilings(target, measure, device, settings)
    at_home = unlike(machine, target) is None and bool(target.bandwidth)
    rows: list[Row] = []
    for case in cases:
        rows += _case(case, peers, registry, target, chip if at_home else None, measure, settings)
    versions = {p.name: p.version() for p in peers if "torch" not in p.adapter.MODULES}
    return Comparison(machine, chip, measured, versions, rows)


def _ceilings(
    target: Target, measure: Measure, device: str, settings: Mapping[str, Any]
) -> tuple[Machine, Target, bool]:
    """The machine, and the target with the rates of a copy and a product that it reaches."""
    calls = [
        _plain("copy", "x.clone()", {"x": ("context", [COPIED])}),
        _plain(
            "product",
            "torch.matmul(x, weight)",
            {"x": ("rows", [MULTIPLIED] * 2), "weight": ("weight", [MULTIPLIED] * 2)},
        ),
    ]
    machine = next(measure(Job(device, "bfloat16", {}, [], **settings)))
    assert isinstance(machine, Machine)
    if machine.device != "cuda":
        return machine, target, False
    taken = {}
    _, *every = measure(Job(device, "bfloat16", {}, calls, **settings))
    for found in every:
        assert isinstance(found, Times)
        taken[found.key] = found.seconds[PYTORCH]
    reached = 2 * MULTIPLIED**3 / taken["product"] / target.peak["bfloat16"]
    peak = {dtype: reached * each for dtype, each in target.peak.items()}  # of others as of this
    return machine, replace(target, bandwidth=4 * COPIED / taken["copy"], peak=peak), True


def _plain(key: str, expression: str, operands: Mapping[str, tuple[str, list[int]]]) -> Any:
    """A call of PyTorch's own, of operands in bfloat16 by their kinds and shapes."""
    return {
        "key": key,
        "op": key,
        "attributes": {},
        "file": None,
        "expression": expression,
        "fresh": True,
        "operands": [
            {"name": name, "dtype": "bfloat16", "shape": shape, "of": 0, "kind": kind}
            for name, (kind, shape) in operands.items()
        ],
        "variants": [vars(Variant(PYTORCH, "ours", "reference"))],
        "gradients": [],
        "alone": False,
    }


def _case(
    case: Case,
    peers: Sequence[Peer],
    registry: Registry,
    target: Target,
    chip: Target | None,
    measure: Measure,
    settings: Mapping[str, Any],
) -> Iterator[Row]:
    """The rows of one case, for which one process is begun."""
    plan = ours.plan(case, registry, target)
    asked = [peer for peer in peers if peer.computes(case)]
    absent = {peer.name: why for peer in asked if (why := peer.absent())}
    folders = {peer.folder for peer in asked}
    texts = {file.name: file.read_text("utf-8") for f in folders for file in f.glob("*.py")}
    calls = []
    for sizes in case.calls:
        phase = case.phase(sizes)
        choice = ours.choice(plan, phase)
        ways = [Variant(OURS, "ours", "kernel")] if choice.kernel.triton else []
        ways += [Variant(PYTORCH, "ours", "reference")]
        ways += [Variant(COMPILED, "ours", "compiled")] if case.compiled else []
        ways += [Variant(p.name, f"peers.{p.stem}", "peer") for p in asked if p.name not in absent]
        key = f"{sizes.batch} x {sizes.tokens}"
        given = choice.kernel, case.op, case.operands
        call = timed(key, *given, phase, sizes, ways, plan.target, case.gradients)
        for operand in call["operands"]:
            if case.cold and operand["kind"] == "rows":
                operand["kind"] = "context"  # as what is drawn anew until no cache keeps it
        calls.append(call)
    packages = {"ours": ours.files(plan, registry), "peers": texts}
    device = "cuda" if target.triton else "cpu"
    results = measure(Job(device, case.dtype, packages, calls, **settings))
    done = 0
    try:
        next(results)
        for sizes, times in zip(case.calls, results, strict=False):
            assert isinstance(times, Times)
            done += 1
            yield _row(case, sizes, chip, times, absent)
    except ProofError as error:  # the process died: a peer's launch may break what all share
        why = str(error).splitlines()[-1].strip()
        for sizes in case.calls[done:]:
            every = {OURS: why, PYTORCH: why, **{peer.name: why for peer in asked}, **absent}
            yield Row(case, sizes, None, {}, every, {}, ())


def _row(
    case: Case,
    sizes: Sizes,
    chip: Target | None,
    times: Times,
    absent: Mapping[str, str],
) -> Row:
    """What was measured, without the times of what computes something else."""
    narrow = case.multiplied == "float8"
    allowed = NARROW if narrow else DIFFERS.get(case.dtype, SUMS)
    wrong = {
        name: f"computes something else: it differs by {by:.2g}"
        for name, by in times.differ.items()
        if by > allowed
    }
    seconds = {name: each for name, each in times.seconds.items() if name not in wrong}
    least = floor(case.work(sizes), case.multiplied, chip) if chip else None
    failed = {**absent, **times.failed, **wrong}
    return Row(case, sizes, least, seconds, failed, times.differ, times.uncaptured)
