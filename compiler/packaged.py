"""A built package, read back as the plan that it was made from."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .driver import Compiler
from .emit.chosen import chosen
from .emit.measure import Measure, measurer
from .emit.measure_decoding import MeasureDecoding, decoding_measurer
from .emit.write import GRAPH, PLAN
from .errors import ArchsmithError
from .files import read_text
from .ir.cost import USUAL_CONTEXT
from .ir.parse import parse_model
from .schedule.forecast import Demand
from .schedule.plan import Plan


class Watch(Protocol):
    """What is told how far a measurement has come."""

    def begin(self, doing: str, total: int) -> None: ...

    def advance(self, doing: str) -> None: ...


@dataclass(frozen=True)
class Packaged:
    """A package in a folder: how it was planned, and the text of its kernels as it stands there."""

    folder: Path
    compiler: Compiler
    plan: Plan
    kernels: Mapping[str, str]
    """The files in `kernels/`, by their paths: with what their owner changed."""
    max_positions: int

    @property
    def measure(self) -> Measure:
        """What times calls on the machine at hand."""
        return measurer(self.compiler.registry.templates)

    @property
    def measure_decoding(self) -> MeasureDecoding:
        """What times steps of the whole package on the machine at hand."""
        return decoding_measurer(self.compiler.registry.templates)

    @property
    def sources(self) -> Mapping[str, str]:
        """All of its Python as it stands there, by path, but for its tests."""
        files = sorted(self.folder.glob("*.py"))
        return {**{file.name: read_text(file) for file in files}, **self.kernels}

    def demand(self, batch: int, context: int | None) -> Demand:
        """The sizes to measure at; raises `ArchsmithError` for a context that is too long."""
        if context is not None and context > self.max_positions:
            raise ArchsmithError(
                f"--context {context} is more than {self.plan.model.name} takes:"
                f" {self.max_positions}"
            )
        return Demand(batch, context or min(USUAL_CONTEXT, self.max_positions))


def packaged(folder: Path) -> Packaged:
    """Read a package; raises `ArchsmithError` where a folder holds none of this archsmith."""
    if not (folder / PLAN).is_file() or not (folder / "kernels").is_dir():
        raise ArchsmithError(f"{folder} holds no package; `archsmith build` makes one")
    again = f"\n  = help: build {folder} anew, with this archsmith"
    if not (folder / GRAPH).is_file():
        raise ArchsmithError(f"{folder} holds no {GRAPH}: an older archsmith built it{again}")
    told, sizes = _json(folder / PLAN), _json(folder / "config.json")
    try:
        target, kernels = str(told["target"]), told["kernels"]
        max_positions = int(sizes["max_positions"])
        wanted = {block: _names(entries) for block, entries in kernels.items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = f"{folder / PLAN} is not as it was written: {error!r}"
        raise ArchsmithError(why + again) from None
    compiler = Compiler.installed(target, numeric=False)
    model = parse_model(read_text(folder / GRAPH), compiler.registry.ops)
    plan = compiler.schedule(model)
    if {block: _names(chosen(plan, block)) for block in plan.blocks} != wanted:
        raise ArchsmithError(
            f"{folder} was built with other kernels or another archsmith than is installed{again}"
        )
    files = sorted((folder / "kernels").glob("*.py"))
    texts = {f"kernels/{file.name}": read_text(file) for file in files}
    return Packaged(folder, compiler, plan, texts, max_positions)


def _names(entries: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Which kernel computes what and when; tiles and reasons left out."""
    return [(e["kernel"], e["nodes"], e["phases"]) for e in entries]


def _json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(read_text(path))
    except ValueError as error:
        raise ArchsmithError(f"{path} is no JSON: {error}") from None
    if not isinstance(data, dict):
        raise ArchsmithError(f"{path} is no map")
    return data
