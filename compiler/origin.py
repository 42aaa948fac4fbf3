"""Where a plugin comes from: the distribution and the entry point that brought its package."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points

GROUP = "archsmith.plugins"
OURS = "archsmith"


@dataclass(frozen=True)
class Origin:
    """An installed distribution, its version, and the entry point that names a package of it."""

    distribution: str
    version: str
    entry: str

    @classmethod
    def of(cls, entry: EntryPoint) -> Origin | None:
        """The distribution of an entry point; None where nothing installed has it."""
        dist = getattr(entry, "dist", None)
        return cls(dist.name, dist.version, entry.name) if dist is not None else None

    def __str__(self) -> str:
        return f"{self.distribution} {self.version}"


def origin(module: str) -> Origin | None:
    """What brought a module; None where no entry point names its package, as in a test."""
    for entry in entry_points(group=GROUP):
        if f"{module}.".startswith(f"{entry.value}."):
            return Origin.of(entry)
    return None
