"""Measuring: calls of kernels timed in a child process, on the machine at hand."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

from ..errors import EnvironmentMissing, ProofError
from ..ir.cost import Sizes
from ..ir.dims import CONTEXT, Dim
from ..ir.op import Op
from ..ir.types import TensorType
from ..machine.target import Target
from ..schedule.code import name
from ..schedule.kernel import Kernel, blamed
from .pools import in_pages, shape, table_shape

SCRIPTS = ("measure.py", "clock.py", "machine.py", "operands.py", "results.py")
ROUNDS = 15  # of which the median is taken; in each, every variant has its turn
MEMORY = 0.15  # by how much a card's memory may differ from what its target states
LEAST = 1e-3  # seconds of calls in a row: far above what a clock tells apart
SETS = 64  # of operands at most, so that small ones do not take the memory
KILLED = "it was killed, as what takes too much memory is"


@dataclass(frozen=True)
class Variant:
    """One way to compute a call: by which folder of kernels, and how."""

    name: str
    package: str
    way: str
    """"kernel", "reference" for its path in PyTorch, or "compiled" for that by torch.compile.

    Or "peer": then `package` is a module with a function of the op's name, which is given its
    attributes and returns two: what is done to operands once, and what is timed.
    """


@dataclass(frozen=True)
class Job:
    """What a child is to measure."""

    device: str
    """"cuda" or "cpu"."""
    dtype: str
    """The model's."""
    folders: Mapping[str, Mapping[str, str]]
    """Of a variant's package: its files in `kernels/`, by their paths."""
    calls: Sequence[Mapping[str, Any]]
    """As `timed` writes them."""
    rounds: int = ROUNDS
    least: float = LEAST
    sets: int = SETS
    compiler: str = "inductor"
    """The backend of torch.compile."""


@dataclass(frozen=True)
class Machine:
    """What was measured on."""

    device: str
    card: str
    arch: str
    """As a target names it; empty where there is no GPU."""
    memory: int
    """Bytes; 0 where there is no GPU."""
    driver: str
    torch: str
    triton: str


@dataclass(frozen=True)
class Times:
    """What was measured of one call, by the names of its variants."""

    key: str
    seconds: Mapping[str, float]
    differ: Mapping[str, float]
    """By how much results differ from those of the first variant that runs: relative, of norms."""
    failed: Mapping[str, str]
    """Why a variant does not run."""
    uncaptured: Sequence[str] = ()
    """Those whose calls are no CUDA graph, so that each may wait for the host."""


Measure: TypeAlias = Callable[[Job], Iterator[Machine | Times]]
"""Yields the machine first, then the times of each call as they come."""


def unlike(machine: Machine, target: Target) -> str | None:
    """Why what is measured on a machine says nothing of a target, or None."""
    if target.triton is None:
        return None
    if machine.device != "cuda":
        return f"PyTorch finds no GPU here, and the package is for {target.name}"
    arch, memory = str(target.triton["arch"]), target.memory
    other = memory and abs(machine.memory / memory - 1) > MEMORY
    if machine.arch != arch or other:
        has = f"{arch}, {memory / 1e9:,.0f} GB"
        return (
            f"the GPU here is {machine.card} ({machine.arch}, {machine.memory / 1e9:,.0f} GB); the"
            f" package is for {target.name} ({has})"
        )
    return None


def timed(
    key: str,
    kernel: Kernel,
    op: Op,
    operands: tuple[TensorType, ...],
    phase: str,
    sizes: Sizes,
    variants: Sequence[Variant],
    target: Target,
    gradients: Collection[str] = (),
    *,
    alone: bool = False,
) -> dict[str, Any]:
    """A call of a kernel, as the child makes it: with the gradients of these operands, if any.

    Where gradients are timed `alone`, results are made before, and what they were made of is no
    longer in the cache.
    """
    names = op.named(len(operands))
    with blamed(kernel):
        counters = kernel.counters(op, operands, target) if phase == "decode" else 0
        pages = in_pages(op, sizes.context)
        arrived = {"arrived": name("arrived")} if counters else {}
        code = kernel.call(op.at("size"), *map(name, names), phases=(phase,), **pages, **arrived)
    kept = _kept(op, operands, sizes) if op.stateful else []
    if kept:
        code = code.given_first(*(name(each["name"]) for each in kept))
    attributes = op.at("size").attributes().items()
    alone = alone and bool(gradients)
    drawn = [
        {
            "name": key,
            **_operand(op, key, type, operands, sizes, alone),
            "begins": op.beginnings().get(key),
        }
        for key, type in zip(names, operands, strict=True)
    ]
    return {
        "key": key,
        "op": op.name,
        "attributes": {k: v.size if isinstance(v, Dim) else v for k, v in attributes},
        "file": kernel.stem() if kernel.functions else None,
        "expression": code.text,
        "fresh": phase != "decode",
        "operands": drawn
        + ([_table(op, sizes)] if pages else [])
        + kept
        + ([_counters(counters * sizes.batch)] if counters else []),
        "variants": [vars(variant) for variant in variants],
        "gradients": [i for i, key in enumerate(names) if key in gradients],
        "alone": alone,
    }


def _table(op: Op, sizes: Sizes) -> dict[str, Any]:
    """The table of pages: which row has which."""
    shape = table_shape(op, sizes)
    return {"name": "table", "dtype": "int32", "shape": shape, "of": 0, "kind": "table"}


def _kept(op: Op, operands: tuple[TensorType, ...], sizes: Sizes) -> list[dict[str, Any]]:
    """What caches keep of all tokens, one row's behind another's, and where this call's go."""
    written = op.types(*operands)[-len(op.written) :]
    found = []
    for i, type in enumerate(written):
        rows = sizes.batch * sizes.context, *(axis.size for axis in type.row)
        found.append({"name": f"kept_{i}", "dtype": type.dtype, "shape": rows, "of": 0})
    shape = sizes.batch, sizes.tokens
    slots = {"name": "slots", "dtype": "int64", "shape": shape, "of": sizes.context}
    return [*({**each, "kind": "kept"} for each in found), {**slots, "kind": "slots"}]


def _counters(count: int) -> dict[str, Any]:
    """What the programs of a kernel count by, from zero."""
    return {"name": "arrived", "dtype": "int32", "shape": (count,), "of": 0, "kind": "counters"}


def _operand(
    op: Op, key: str, type: TensorType, operands: tuple[TensorType, ...], sizes: Sizes, cold: bool
) -> dict[str, Any]:
    """How an operand is drawn: what it is, its shape, and what its numbers are below; `cold`, where
    rows are in the cache no longer."""
    found = {"dtype": type.dtype, "shape": shape(op, type, sizes), "of": 0}
    if type.dtype == "int64":
        kind = "choices" if type.row else "positions" if key == "positions" else "tokens"
        rows = [operand.row for operand in operands if operand.row]
        positions = kind == "positions" or not rows  # as what is made of positions alone is given
        found["of"] = sizes.context if positions else rows[-1][0].size
    elif type.shape == type.row:
        kind = "scale" if key.endswith("_scale") else "weight"
    else:
        kind = "context" if cold or CONTEXT in type.shape else "rows"
    return {**found, "kind": kind}


def measurer(
    templates: Mapping[str, str], environment: Mapping[str, str] = MappingProxyType({})
) -> Measure:
    """What measures in a child process; `environment` is added to its own variables."""
    return partial(in_child, templates, environment, lay_out, SCRIPTS[0], Times)


def in_child(
    templates: Mapping[str, str],
    environment: Mapping[str, str],
    lay_out: Callable[[Any, Mapping[str, str], Path], None],
    script: str,
    found: Callable[..., Any],
    job: Any,
) -> Iterator[Any]:
    """The machine, and then what is `found` by a script in a folder where the job is laid out."""
    with tempfile.TemporaryDirectory(prefix="archsmith-") as temporary:
        folder = Path(temporary)
        lay_out(job, templates, folder)
        for i, data in enumerate(told(folder, script, environment)):
            yield found(**data) if i else Machine(**data)


def lay_out(job: Job, templates: Mapping[str, str], folder: Path) -> None:
    """Write what the child reads and runs."""
    for package, files in job.folders.items():
        for path, text in files.items():
            file = folder / package / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
    for script in SCRIPTS:
        (folder / script).write_text(templates[script], encoding="utf-8")
    asked = {key: value for key, value in vars(job).items() if key != "folders"}
    (folder / "job.json").write_text(json.dumps(asked))


def told(folder: Path, script: str, environment: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Run a script there, and give each line of JSON that it prints as it comes.

    Raises `EnvironmentMissing` without torch, `ProofError` where it fails.
    """
    with (folder / "said.txt").open("w+") as said:
        child = subprocess.Popen(
            [sys.executable, script],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", **environment},
        )
        try:
            assert child.stdout is not None
            yield from map(json.loads, child.stdout)
            status = child.wait()
        finally:
            child.kill()
            child.communicate()
        said.seek(0)
        lines = said.read().replace(f"{folder}/", "").strip().splitlines() or [KILLED]
    if status == 4:
        raise EnvironmentMissing(
            f"measuring needs torch: {lines[-1]}\n  = help: pip install 'archsmith[triton]'"
        )
    if status:
        raise ProofError("measuring failed: " + "\n  ".join(lines[-6:]))
