"""A target: what the compiler must know of a chip, read from a data file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ..errors import PluginError


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
    """Where each figure is from."""

    @classmethod
    def of(cls, name: str, data: Mapping[str, Any]) -> Target:
        """Read a target's file; raises `PluginError` for a field that no target has."""
        known = {f.name for f in fields(cls)} - {"name"}
        unknown = sorted(set(data) - known)
        if unknown or "describes" not in data:
            wrong = f"has no field {unknown[0]}" if unknown else "needs `describes`"
            raise PluginError(f"target {name}: a target {wrong}; it has {', '.join(sorted(known))}")
        return cls(name, **{**data, "features": tuple(data.get("features", ()))})
