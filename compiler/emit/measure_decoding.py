"""Measuring decode steps of a whole package in a child process, on the machine at hand."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

from .measure import ROUNDS, Machine, in_child

SCRIPTS = ("measure_decoding.py", "machine.py")
LEAST = 2e-2  # seconds of steps in a row, of which the first and the last wait for the device
CAPTURED, EAGER, COMPILED = "captured", "eager", "compiled"
WAYS = (CAPTURED, EAGER, COMPILED)


@dataclass(frozen=True)
class Decoding:
    """What a child is to measure."""

    device: str
    """"cuda" or "cpu"."""
    package: Mapping[str, str]
    """The files of the package, by their paths."""
    batches: Sequence[int]
    """Numbers of rows."""
    context: int
    """Tokens of each row, the last of which a step is given."""
    ways: Sequence[str] = WAYS
    """Of the package: as one CUDA graph, by a call of `decode` each, and by torch.compile."""
    peers: Mapping[str, str] = field(default_factory=dict)
    """Others, by name: a module's text, with `model(configuration, device, dtype)` and
    `decoding(model, rows, context)`, which gives a step, int64 [B] -> int64 [B], and what sets it
    back."""
    configuration: str = ""
    """A Hugging Face configuration, which peers read."""
    rounds: int = ROUNDS
    least: float = LEAST
    compiler: str = "inductor"
    """The backend of torch.compile."""


@dataclass(frozen=True)
class Steps:
    """What was measured with so many rows."""

    key: str
    """How many, as text."""
    seconds: Mapping[str, float]
    """Of a step, by way and peer."""
    failed: Mapping[str, str]
    """Why one has no time."""


MeasureDecoding: TypeAlias = Callable[[Decoding], Iterator[Machine | Steps]]
"""Yields the machine first, then the steps of each number of rows as they come."""


def decoding_measurer(
    templates: Mapping[str, str], environment: Mapping[str, str] = MappingProxyType({})
) -> MeasureDecoding:
    """What measures in a child process; `environment` is added to its own variables."""
    return partial(in_child, templates, environment, lay_out, SCRIPTS[0], Steps)


def lay_out(job: Decoding, templates: Mapping[str, str], folder: Path) -> None:
    """Write what the child reads and runs."""
    files = {
        f"{name}/{path}": t for name in ("package", "plain") for path, t in job.package.items()
    }
    files |= {f"peers/{name}.py": text for name, text in job.peers.items()}
    files |= {script: templates[script] for script in SCRIPTS}
    files["configuration/config.json"] = job.configuration
    for path, text in files.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    asked = {key: value for key, value in vars(job).items() if key not in ("package", "peers")}
    (folder / "job.json").write_text(json.dumps({**asked, "peers": list(job.peers)}))
