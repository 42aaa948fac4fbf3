"""Launches that begin early: each kernel that is launched so waits, and those of decoding are."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from archsmith.compiler.driver import Compiler
from archsmith.compiler.emit.aot import calls_of
from archsmith.compiler.emit.package import emit_kernels
from archsmith.compiler.schedule.kernel import GradientKernel, Kernel
from archsmith.compiler.schedule.plan import Plan
from kernels.begins import begins
from kernels.checks import registry
from kernels.emissions import imported

EXAMPLES = Path(__file__).parents[2] / "examples"


class Recorded:
    """Stands in for a kernel: keeps with what options it would be launched."""

    def __init__(self, kernel: Any, calls: list[tuple[Any, bool]]) -> None:
        self.kernel, self.fn, self.calls = kernel, kernel.fn, calls

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return lambda *_, **given: self.calls.append((self, given.get("launch_pdl", False)))


def launches(plan: Plan) -> list[tuple[Any, bool]]:
    """The kernels that a package launches, each as often, and whether early."""
    (texts,) = emit_kernels([(plan, ())], registry().templates)
    files = tuple(sorted((Path(p).stem, t) for p, t in texts.items() if "__init__" not in p))
    stem = calls_of(plan)[0]["file"]
    package = imported(files, stem).__package__
    modules = {file: importlib.import_module(f"{package}.{file}") for file, _ in files}
    calls: list[tuple[Any, bool]] = []
    modules["launches"].PDL["launch_pdl"] = True  # as where nothing is interpreted
    for module in modules.values():
        for key, value in list(vars(module).items()):
            if hasattr(value, "run"):
                setattr(module, key, Recorded(value, calls))
    for call in calls_of(plan):
        operands = {
            name: torch.empty(x["shape"], dtype=getattr(torch, x["dtype"]), device="meta")
            for name, x in call["operands"].items()
        }
        found = vars(modules[call["file"]]).items()
        functions = {name: f.launch for name, f in found if hasattr(f, "launch")}
        eval(call["expression"], {**functions, **operands})
    return calls
