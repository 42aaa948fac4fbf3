"""What a build made, changed, refused and proved: for people, and for scripts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .emit.aot import Compiled
from .emit.prove import PackageProof, method
from .rewrite.pipeline import Outcome

SEED = 0


@dataclass(frozen=True)
class Report:
    """What a build made, changed, refused and proved."""

    folder: Path
    files: Mapping[str, str]
    """Path -> "new", "same", "changed", "removed" or "edited"."""
    target: str
    pipeline: str
    parameters: int
    cache_bytes_per_token: int
    outcomes: Sequence[Outcome]
    proof: PackageProof | None
    unproved: str
    """Why the package was not proved, where it was not."""
    compiled: Sequence[Compiled] = ()
    """Its kernels, where they were compiled ahead of time."""
    stale: Sequence[str] = ()
    """What tables of measured tiles say that was not used, and why."""

    def json(self) -> dict[str, Any]:
        return {
            "folder": str(self.folder),
            "files": dict(self.files),
            "target": self.target,
            "pipeline": self.pipeline,
            "parameters": self.parameters,
            "cache_bytes_per_token": self.cache_bytes_per_token,
            "passes": [
                {
                    **outcome.certificate(SEED),
                    "largest_error": outcome.error,
                    "loss": outcome.loss,
                }
                for outcome in self.outcomes
            ],
            "package": None
            if self.proof is None
            else {**method(), "trials": self.proof.trials, "largest_error": self.proof.error},
            "unproved": self.unproved,
            "compiled": [kernel.json() for kernel in self.compiled],
            "stale": list(self.stale),
        }
