"""Measuring as tests need it: by a made-up clock, or truly in this process."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Set
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any

from archsmith.compiler.emit.measure import SCRIPTS, Job, Machine, Measure, Times, lay_out
from archsmith.compiler.packaged import Packaged

CARD = Machine("cuda", "NVIDIA H200", "90", 150_754_820_096, "580.65.06", "2.13.0", "3.9.0")
Clock = Callable[[dict[str, Any], str], float]


class Silent:
    def begin(self, doing: str, total: int) -> None: ...

    def advance(self, doing: str) -> None: ...


def by(clock: Clock, *, card: Machine = CARD, asked: list[Job] | None = None) -> Measure:
    """A stand-in for the child: microseconds by a call and the name of its variant."""

    def measure(job: Job) -> Iterator[Machine | Times]:
        if asked is not None:
            asked.append(job)
        yield card
        for call in job.calls:
            names = [variant["name"] for variant in call["variants"]]
            seconds = {name: 1e-6 * clock(dict(call), name) for name in names}
            yield Times(call["key"], seconds, dict.fromkeys(names, 0.0), {})

    return measure


def here(package: Packaged, job: Job) -> Iterator[Machine | Times]:
    """Measure in this process, which has torch and Triton's interpreter loaded."""
    yield from inside(package.compiler.registry.templates, job)


def inside(templates: Mapping[str, str], job: Job) -> Iterator[Machine | Times]:
    """As `here`, with the scripts of a registry."""
    told = StringIO()
    scripts = {script.removesuffix(".py") for script in SCRIPTS}
    with tempfile.TemporaryDirectory() as folder:
        lay_out(job, templates, Path(folder))
        with within(Path(folder), scripts | job.folders.keys()):
            runpy.run_path("measure.py")["main"](told)
    machine, *each = map(json.loads, told.getvalue().splitlines())
    yield Machine(**machine)
    yield from (Times(**times) for times in each)


@contextmanager
def within(folder: Path, names: Set[str]) -> Iterator[None]:
    """Stand in a folder whose modules of these names are loaded, and nobody else's: a folder of
    tests is called `package` too."""
    before = Path.cwd(), list(sys.path)
    others = {m: sys.modules.pop(m) for m in list(sys.modules) if m.partition(".")[0] in names}
    try:
        os.chdir(folder)
        importlib.invalidate_caches()
        yield
    finally:
        os.chdir(before[0])
        sys.path[:] = before[1]
        for loaded in [m for m in sys.modules if m.partition(".")[0] in names]:
            del sys.modules[loaded]
        sys.modules |= others


def alike(call: dict[str, Any], name: str) -> float:
    return 2.0
