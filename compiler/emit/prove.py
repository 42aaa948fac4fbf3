"""The emitter's proof: a package at probe sizes, run in a child process, against the graph."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save_file

from ..errors import EnvironmentMissing, ProofError
from ..ir.dims import CONTEXT
from ..ir.model import FINAL_NORM, HEAD
from ..ir.paging import paged
from ..ir.reach import windows
from ..rewrite.check import relative
from ..rewrite.twin import LENGTH, RAGGED, ROWS, Checkpoint, Scenario, Twin, scenarios
from ..schedule.plan import Plan
from .package import NO_CHECKPOINT, Facts, emit

TOLERANCE = 1e-9  # relative, in float64: PyTorch sums in another order than NumPy
PACKAGE = "probe"
DIFFERS = "the emitted package differs from the graph"
EVERY = "/every"  # the calls that ask for the logits after every token, not the last alone
DRAFT = "/draft"  # the calls that ask for those of a draft, after every token as well


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


@dataclass(frozen=True)
class _Told:
    """What a package answered: arrays by scenario, step and way, and what they are called."""

    arrays: Mapping[str, Any]
    names: Mapping[str, str]

    def values(self, key: str) -> list[tuple[str, str, Any]]:
        """The block and the name of each value of one call, and the value, in their order."""
        named = json.loads(self.names[key])
        return [(*names, self.arrays[f"{key}/{i}"]) for i, names in enumerate(named)]


@dataclass
class _Proof:
    plan: Plan
    templates: Mapping[str, str]
    facts: Facts
    twin: Twin
    folder: Path
    said: str = ""
    """By the child that ran last, on stderr."""

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
        results = self._child().arrays
        trials, worst = 0, 0.0
        for scenario in scenarios():
            traces = self.twin.trace(scenario, inputs)
            for step, call in enumerate(scenario.calls):
                outputs = self.twin.outputs(traces[step], call.phase)
                for key, wanted in _wanted(scenario, step, *outputs).items():
                    if key not in results:
                        raise self._failure(inputs)
                    seen = _seen(scenario, step) if key.endswith(DRAFT) else np.s_[:]
                    error = relative(wanted[seen], results[key][seen])
                    trials, worst = trials + 1, max(worst, error)
                    if not error <= TOLERANCE:
                        self._package(trace=True)
                        where = self._first(key, scenario, step, traces[step], self._child())
                        where = where or f"block {HEAD}, what it returns by {error:.2g}"
                        raise ProofError(f"{DIFFERS}: {where} in {scenario.name}")
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

        for name, layer in self.twin.every:
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
                        "tokens": call.of(tokens).tolist(),
                        "lengths": list(RAGGED) if ragged else None,
                    }
                )
            calls.append({"name": scenario.name, "steps": steps})
        return calls

    def _child(self) -> _Told:
        """Run the package; returns what it answered, as far as it came."""
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
        self.said = done.stderr.replace(f"{self.folder}{os.sep}", "").strip()
        results = self.folder / "results.safetensors"
        if not results.exists():
            raise ProofError(self._fails())
        with safe_open(results, "numpy") as opened:
            arrays = {key: opened.get_tensor(key) for key in opened.keys()}  # noqa: SIM118
            return _Told(arrays, opened.metadata())

    def _fails(self) -> str:
        """What the child said as it failed, and the last line of the package it was in."""
        lines = self.said.splitlines() or ["it was killed"]
        where = [line.strip() for line in lines if PACKAGE in line and "File" in line]
        return f"the emitted package fails: {lines[-1]}" + "".join(f"\n  {x}" for x in where[-1:])

    def _failure(self, inputs: dict[str, Any]) -> ProofError:
        """The error for a package that did not answer: where it came to, or first differed."""
        self._package(trace=True)
        told = self._child()
        if not (key := told.names["last"]):  # it came to no call
            return ProofError(self._fails())
        (scenario,) = (s for s in scenarios() if s.name == key.split("/")[0])
        step = int(key.split("/")[1])
        trace = self.twin.trace(scenario, inputs)[step]
        if where := self._first(key, scenario, step, trace, told):
            return ProofError(f"{DIFFERS}: {where} in {scenario.name}")
        if values := told.values(key):
            block, value, _ = values[-1]
            return ProofError(f"{self._fails()}\n  in block {block}, after value %{value}")
        return ProofError(self._fails())

    def _first(
        self, key: str, scenario: Scenario, step: int, trace: list[dict[str, Any]], told: _Told
    ) -> str | None:
        """The first value that differs, of those that a package told of one call."""
        blocks = [name for name, _ in self.twin.every]
        run, met = 0, set[str]()
        for block, name, value in told.values(key):
            while block != blocks[run] or name in met:
                run, met = run + 1, set()
            met.add(name)
            known = self.plan.model.blocks[block]
            wanted, seen = trace[run][name], _own(scenario, step)
            if CONTEXT in known.graph(scenario.calls[step].phase).value(name).type.shape:
                if windows(known) or paged(self.plan.model):
                    continue  # they lie elsewhere, in another order: their reader is compared
                seen = _written(scenario, step)
            last = block in (FINAL_NORM, HEAD) and not key.endswith((EVERY, DRAFT))
            if last and scenario.cached:
                wanted, seen = _last(wanted, seen)[:, None], None
            difference = _difference(wanted, value, seen)
            if not difference <= TOLERANCE:
                return f"block {block}, value %{name} by {difference:.2g}"
        return None


def _difference(wanted: Any, got: Any, seen: Any) -> float:
    """By how much a value differs where it is `seen`, a mask [B, T] or [B, S]; None: everywhere."""
    if seen is None:
        return relative(wanted, got)
    if got.shape[1] != seen.shape[1]:
        return float("inf")
    return relative(wanted[:, : seen.shape[1]][seen], got[seen])


def _wanted(scenario: Scenario, step: int, logits: Any, *draft: Any) -> Mapping[str, Any]:
    """What the graph says, for each way the package was asked."""
    key, own = f"{scenario.name}/{step}", _own(scenario, step)
    wanted = {key: _last(logits, own) if scenario.cached else logits}
    if scenario.cached and own is None:
        wanted[key + EVERY] = logits
    return wanted | dict(zip((key + DRAFT,), draft, strict=False))


def _seen(scenario: Scenario, step: int) -> Any:
    """Which entries [B, T] are of tokens that are no padding."""
    own = _own(scenario, step)
    return np.s_[:] if own is None else own


def _last(value: Any, own: Any) -> Any:
    """What a value [B, T, ...] is at each row's last token, that is no padding."""
    last = np.full(ROWS, value.shape[1]) if own is None else own.sum(1)
    return value[np.arange(ROWS), last - 1]


def _own(scenario: Scenario, step: int) -> Any:
    """Which tokens [B, T] are no padding, or None where all are."""
    if scenario.name == "ragged" and step == 0:
        return np.arange(max(RAGGED)) < np.array(RAGGED)[:, None]
    return None


def _written(scenario: Scenario, step: int) -> Any:
    """Which slots [B, S] of a cache hold a token; a package reads no further than the last."""
    own = _own(scenario, step)
    ends = scenario.calls[step].positions[:, -1] + 1 if own is None else own.sum(1)
    return np.arange(ends.max()) < ends[:, None]


def method() -> dict[str, Any]:
    """How packages are proved, for the certificate."""
    return {
        "method": "the package at probe sizes against the float64 twin",
        "scenarios": [scenario.name for scenario in scenarios()],
        "rows": ROWS,
        "tokens": LENGTH,
        "tolerance": TOLERANCE,
    }
