"""A target: what the compiler must know of a chip, read from a data file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from ..errors import PluginError


@dataclass(frozen=True)
class Target:
    """A chip. Kernels ask for its `features`, never for its name."""

    name: str
    describes: str
    features: tuple[str, ...] = ()

    @classmethod
    def of(cls, name: str, data: Mapping[str, Any]) -> Target:
        """Read a target's file; raises `PluginError` for a field that no target has."""
        known = {f.name for f in fields(cls)} - {"name"}
        unknown = sorted(set(data) - known)
        if unknown or "describes" not in data:
            wrong = f"has no field {unknown[0]}" if unknown else "needs `describes`"
            raise PluginError(f"target {name}: a target {wrong}; it has {', '.join(sorted(known))}")
        return cls(name, str(data["describes"]), tuple(data.get("features", ())))
