"""A target: what the compiler must know of a chip, read from a data file."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, NoReturn

from ..errors import PluginError
from ..ir.types import FLOATS

DTYPES = (*FLOATS, "float8", "int8")  # that products may be of

FIGURES = ("shared_memory", "processors", "memory", "bandwidth", "launch")
TRITON = {"backend", "arch", "warp_size"}


@dataclass(frozen=True)
class Target:
    """A chip. Kernels ask for its `features`, never for its name."""

    name: str
    describes: str
    features: tuple[str, ...] = ()
    triton: Mapping[str, Any] | None = None
    """What `triton.compiler.GPUTarget` takes: backend, arch, warp_size; None: no Triton."""
    shared_memory: int = 0
    """Bytes that one program may have."""
    processors: int = 1
    """What runs programs side by side: streaming multiprocessors, compute units."""
    memory: int = 0
    """Bytes."""
    bandwidth: float = 0.0
    """Of the memory, bytes a second."""
    peak: Mapping[str, float] = field(default_factory=dict)
    """Dense matrix products by dtype, floating-point operations a second."""
    launch: float = 0.0
    """Seconds that a kernel takes beside its work, one after another in a graph."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where each figure is from: "bandwidth", "peak.bfloat16", ..."""

    @property
    def waits(self) -> bool:
        """Whether a barrier of Triton's waits for what threads stored, so that one of them may tell
        other programs: by a counter, which of several is the last.

        Seen in what is compiled: with mfma, stores of other waves may yet be under way.
        """
        return "mfma" not in self.features

    @classmethod
    def of(cls, name: str, data: Mapping[str, Any]) -> Target:
        """Read a target's file, where a figure is `{value: 4.8e+12, source: datasheet}` and
        `sources` says what a datasheet is; raises `PluginError` for anything else."""
        known = {f.name for f in fields(cls)} - {"name"}
        unknown = sorted(set(data) - known)
        if unknown or "describes" not in data:
            wrong = f"has no field {unknown[0]}" if unknown else "needs `describes`"
            _refuse(name, f"a target {wrong}; it has {', '.join(sorted(known))}")
        triton, titles = data.get("triton"), data.get("sources", {})
        if triton is not None and not (isinstance(triton, dict) and set(triton) == TRITON):
            _refuse(name, f"`triton` needs {', '.join(sorted(TRITON))} and nothing else")
        peak = data.get("peak", {})
        if triton is not None and "shared_memory" not in data:
            _refuse(name, "where there is Triton, `shared_memory` says what a program may have")
        features = data.get("features", [])
        if not isinstance(features, list) or not all(isinstance(f, str) for f in features):
            _refuse(name, f"`features` is a list of words, not {features!r}")
        if not isinstance(titles, dict) or not isinstance(peak, dict):
            _refuse(name, "`sources` and `peak` are mappings")
        if other := sorted(set(peak) - set(DTYPES)):
            _refuse(name, f"`peak` is by dtype: {other[0]} is none of {', '.join(DTYPES)}")
        stated = {key: data[key] for key in FIGURES if key in data}
        stated |= {f"peak.{dtype}": figure for dtype, figure in peak.items()}
        read = {key: _figure(name, key, figure, titles) for key, figure in stated.items()}
        return cls(
            name,
            str(data["describes"]),
            tuple(features),
            triton,
            shared_memory=int(read.get("shared_memory", 0)),
            processors=int(read.get("processors", 1)),
            memory=int(read.get("memory", 0)),
            bandwidth=read.get("bandwidth", 0.0),
            peak={dtype: read[f"peak.{dtype}"] for dtype in peak},
            launch=read.get("launch", 0.0),
            sources={key: str(titles[figure["source"]]) for key, figure in stated.items()},
        )


def _figure(name: str, key: str, figure: Any, titles: Mapping[str, Any]) -> float:
    if not isinstance(figure, dict) or set(figure) != {"value", "source"}:
        _refuse(name, f"{key} has no source; write {key}: {{value: ..., source: ...}}")
    value, source = figure["value"], figure["source"]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (number and math.isfinite(value) and value > 0):
        _refuse(name, f"{key} is {value!r}, which is no number above zero")
    if not isinstance(source, str) or source not in titles:
        _refuse(name, f"{key} is from {source!r}, of which `sources` says nothing")
    return float(value)


def _refuse(name: str, why: str) -> NoReturn:
    raise PluginError(f"target {name}: {why}")
