"""The judge of lossy passes: a model before and after one, as packages, on a real checkpoint."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import ArchsmithError, EnvironmentMissing
from ..ir.model import Model
from ..schedule.plan import Plan
from .package import Facts, emit


@dataclass(frozen=True)
class CheckpointJudge:
    """Measures what a pass loses, on text that the model before it writes, in float32."""

    plan: Callable[[Model], Plan]
    templates: Mapping[str, str]
    facts: Facts
    weights: Path
    """The folder of a Hugging Face checkpoint."""
    seed: int = 0

    def __call__(self, before: Model, after: Model) -> Mapping[str, float]:
        """The loss by metric, each 0 where both are equal.

        Raises `EnvironmentMissing` where torch cannot be imported, and `ArchsmithError` where a
        package does not run or does not fit the checkpoint.
        """
        with tempfile.TemporaryDirectory(prefix="archsmith-") as name:
            folder = Path(name)
            for package, model in (("before", before), ("after", after)):
                for path, text in emit(self.plan(model), self.templates, self.facts).items():
                    file = folder / package / path
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text(text, encoding="utf-8")
            script = folder / "judge.py"
            script.write_text(self.templates["judge.py"], encoding="utf-8")
            done = subprocess.run(
                [sys.executable, str(script), str(self.weights.resolve()), str(self.seed)],
                cwd=folder,
                capture_output=True,
                text=True,
                env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
                check=False,
            )
            if done.returncode == 4:
                raise EnvironmentMissing(done.stderr.strip())
            if done.returncode:
                said = done.stderr.strip().splitlines() or ["it was killed"]
                raise ArchsmithError(f"the model cannot be run on {self.weights}: {said[-1]}")
            losses: dict[str, float] = json.loads((folder / "losses.json").read_text())
        return {metric: x if math.isfinite(x) else math.inf for metric, x in losses.items()}
