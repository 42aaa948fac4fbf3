"""The emitter's proof: a package at probe sizes, run in a child process, against the graph."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ..errors import EnvironmentMissing, ProofError
from ..ir.dims import CONTEXT
from ..ir.reach import windows
from ..rewrite.check import relative
from ..rewrite.twin import LENGTH, RAGGED, ROWS, Checkpoint, Scenario, Twin, scenarios
from ..schedule.select import Plan
from .package import NO_CHECKPOINT, Facts, emit

TOLERANCE = 1e-9  # relative, in float64: PyTorch sums in another order than NumPy
PACKAGE = "probe"


@dataclass(frozen=True)
class PackageProof:
    """What was compared, and the largest relative error that was seen."""

    trials: int
    error: float
    seconds: float


def prove_package(
    plan: Plan, templates: Mapping[str, str], facts: Facts, seed: int = 0
) -> PackageProof:
    """Emit the package at probe sizes, load a random checkpoint, and compare all ways to call it.

    Raises `ProofError` that names the first block and value that differ, `EnvironmentMissing`
    where torch cannot be imported.
    """
    model = plan.model.shallow(at_most=2)
    plan = replace(plan, model=model)
    twin = Twin.of_model(model, seed)
    # What a checkpoint's configuration must say is about the real sizes.
    facts = replace(facts, vocab_size=twin.vocabulary, checkpoint=NO_CHECKPOINT)
    with tempfile.TemporaryDirectory(prefix="archsmith-") as folder:
        proof = _Proof(plan, templates, facts, twin, Path(folder))
        return proof.run()


@dataclass
class _Proof:
    plan: Plan
    templates: Mapping[str, str]
    facts: Facts
    twin: Twin
    folder: Path

    def run(self) -> PackageProof:
        from time import perf_counter

        start = perf_counter()
        inputs = self.twin.inputs()
        checkpoint = self.folder / "checkpoint"
        checkpoint.mkdir()
        save_file(self._tensors(), checkpoint / "model.safetensors")
        (checkpoint / "config.json").write_text("{}")
        self._package(trace=False)
        calls = self._calls(inputs["tokens"])
        (self.folder / "calls.json").write_text(json.dumps(calls))
        results = self._child()
        trials, worst = 0, 0.0
        for scenario in scenarios():
            traces = self.twin.trace(scenario, inputs)
            for i, call in enumerate(scenario.calls):
                (wanted,) = self.twin.outputs(traces[i], call.phase)
                for key, w, g in _compared(scenario, i, wanted, results):
                    error = relative(w, g)
                    trials, worst = trials + 1, max(worst, error)
                    if not error <= TOLERANCE:
                        self._explain(key, scenario, traces[i], i, error)
        return PackageProof(trials, worst, perf_counter() - start)

    def _package(self, trace: bool) -> None:
        for path, text in emit(self.plan, self.templates, self.facts, "probe", trace=trace).items():
            file = self.folder / PACKAGE / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")

    def _tensors(self) -> dict[str, Any]:
        """Every tensor of a random checkpoint at probe sizes."""
        tensors: dict[str, Any] = {}
        read = Checkpoint(self.twin.seed)

        def keep(name: str, shape: tuple[int, ...]) -> Any:
            tensors[name] = read(name, shape)
            return tensors[name]

        for name, layer in self.twin.runs:
            for param in self.plan.model.blocks[name].params.values():
                param.program.evaluate("probe", keep, {"layer": layer})
        return {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}

    def _calls(self, tokens: Any) -> list[dict[str, Any]]:
        """The scenarios as the child makes them: what is called with which tokens."""
        calls = []
        for scenario in scenarios():
            steps = []
            for i, call in enumerate(scenario.calls):
                ragged = scenario.name == "ragged" and i == 0
                steps.append(
                    {
                        "phase": call.phase,
                        "tokens": tokens[:, call.tokens].tolist(),
                        "lengths": list(RAGGED) if ragged else None,
                    }
                )
            calls.append({"name": scenario.name, "steps": steps})
        return calls

    def _child(self) -> Mapping[str, Any]:
        """Run the package; returns its logits by scenario and step."""
        script = self.folder / "prove.py"
        script.write_text(self.templates["prove.py"], encoding="utf-8")
        done = subprocess.run(
            [sys.executable, str(script), PACKAGE],
            cwd=self.folder,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"},
            check=False,
        )
        if done.returncode == 4:
            raise EnvironmentMissing(done.stderr.strip())
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["it was killed"]
            where = [line.strip() for line in lines if PACKAGE in line and "File" in line]
            raise ProofError(
                f"the emitted package fails: {lines[-1]}" + (f"\n  {where[-1]}" if where else "")
            )
        with np.load(self.folder / "results.npz") as results:
            return dict(results)

    def _explain(
        self, key: str, scenario: Scenario, trace: list[dict[str, Any]], step: int, error: float
    ) -> None:
        """Raise `ProofError` with the first value that differs, from a package that traces."""
        self._package(trace=True)
        told = self._child()
        blocks = [name for name, _ in self.twin.runs]
        run, met = 0, set[str]()
        for i in range(int(told[f"{key}/count"])):
            block, name = (str(told[f"{key}/{what}/{i}"]) for what in ("block", "name"))
            while block != blocks[run] or name in met:
                run, met = run + 1, set()
            met.add(name)
            if self._is_window(block, name, scenario.calls[step].phase):
                continue  # the package keeps fewer rows, in another order: their reader is compared
            difference = _difference(trace[run][name], told[f"{key}/value/{i}"], scenario, step)
            if not difference <= TOLERANCE:
                raise ProofError(
                    f"the emitted package differs from the graph: block {block}, value %{name}"
                    f" by {difference:.2g} in {scenario.name}"
                )
        raise ProofError(
            f"the emitted package differs from the graph: block {blocks[-1]}, what it returns"
            f" by {error:.2g} in {scenario.name}"
        )

    def _is_window(self, block: str, name: str, phase: str) -> bool:
        """Whether a value is the context of a block with a cache that keeps a window of rows."""
        known = self.plan.model.blocks[block]
        return bool(windows(known)) and CONTEXT in known.graph(phase).value(name).type.shape


def _difference(wanted: Any, got: Any, scenario: Scenario, step: int) -> float:
    """By how much a value differs, where it is no padding and no slot that was never written."""
    tokens = scenario.calls[step].positions.shape[1]
    if got.shape[1] != tokens:  # a cache's rows: the package reads as far as they are written
        if scenario.name == "ragged":
            return 0.0
        wanted = wanted[:, : got.shape[1]]
    elif (seen := _own(scenario, step)) is not None:
        wanted, got = wanted[seen], got[seen]
    return relative(wanted, got)


def _compared(
    scenario: Scenario, step: int, wanted: Any, results: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """What the graph says and what the package says, for each way the package was asked."""
    key = f"{scenario.name}/{step}"
    seen = _own(scenario, step)
    if scenario.cached:
        last = np.array(RAGGED) - 1 if seen is not None else np.full(ROWS, wanted.shape[1] - 1)
        yield key, wanted[np.arange(ROWS), last], results[key]
        if seen is None:
            yield key, wanted, results[f"{key}/every"]
    else:
        yield key, wanted, results[key]


def _own(scenario: Scenario, step: int) -> Any:
    """Which tokens [B, T] are no padding, or None where all are."""
    if scenario.name == "ragged" and step == 0:
        return np.arange(max(RAGGED)) < np.array(RAGGED)[:, None]
    return None


def method() -> dict[str, Any]:
    """How packages are proved, for the certificate."""
    return {
        "method": "the package at probe sizes against the float64 twin",
        "scenarios": [scenario.name for scenario in scenarios()],
        "rows": ROWS,
        "tokens": LENGTH,
        "tolerance": TOLERANCE,
    }
