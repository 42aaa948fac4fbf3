"""Ahead of time: the kernels of a package compiled for its target, without having one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import MappingProxyType
from typing import Any

from ..errors import ArchsmithError, EnvironmentMissing, ProofError
from ..ir.cost import Sizes
from ..ir.types import TensorType
from ..schedule.code import name
from ..schedule.kernel import Kernel, Use, operands
from ..schedule.plan import Plan
from .package import Facts, emit
from .pools import in_pages, shape, table_shape

SCRIPT = "compile.py"
EACH = 8  # calls for which another process is worth its start, three seconds
MOST = 16  # processes at a time, of a gigabyte each


@dataclass(frozen=True)
class Compiled:
    """One kernel as the compiler made it."""

    file: str
    kernel: str
    """The function's name in the emitted file."""
    options: Mapping[str, int]
    """Constants, warps and stages."""
    registers: int
    """Of a thread."""
    spills: int
    """Bytes of a thread that did not fit its registers."""
    shared: int
    """Bytes of a program."""
    instructions: Mapping[str, int]
    """How often the text holds each matrix instruction."""
    size: int
    """Bytes of the binary."""
    sha256: str

    def json(self) -> dict[str, Any]:
        return {**vars(self), "options": dict(self.options)}


def compile_package(plan: Plan, templates: Mapping[str, str], facts: Facts) -> list[Compiled]:
    """Compile all Triton kernels of a package, each in every configuration that it may launch.

    Raises as `compile_ahead`, and `ArchsmithError` where the target has no Triton.
    """
    target = plan.target
    if target.triton is None:
        raise ArchsmithError(
            f"nothing is compiled ahead of time for {target.name}, which has no Triton\n"
            "  = help: build for a GPU with --target, or without --aot"
        )
    files, asked = emit(plan, templates, facts), calls_of(plan)
    processes = min(_processors(), -(-len(asked) // EACH), MOST)
    found = compile_ahead(files, asked, target.triton, templates[SCRIPT], processes=processes)
    # In an order of their own, each once: however many processes there are, to the byte the same.
    compiled = [kernel for kernel, _ in groupby(sorted(found, key=_place))]
    for kernel in compiled:
        if kernel.shared > target.shared_memory:
            raise ProofError(
                f"{kernel.kernel} of kernels/{kernel.file}.py needs {kernel.shared} bytes of shared"
                f" memory with {dict(kernel.options)}; {target.name} has {target.shared_memory}"
            )
    return compiled


def _processors() -> int:
    """Those that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _place(kernel: Compiled) -> tuple[Any, ...]:
    return kernel.file, kernel.kernel, sorted(kernel.options.items()), kernel.sha256


def account(plan: Plan, compiled: Sequence[Compiled]) -> dict[str, Any]:
    """What a package says of its kernels: what they are compiled to, and what they move."""
    traffic: dict[str, dict[str, Any]] = {}
    for choice in plan.choices:
        if choice.kernel.triton:
            sizes = plan.calls[choice.phase]
            moved = choice.kernel.cost(choice.op, choice.operands, sizes, plan.target)
            least = choice.op.cost(sizes, *choice.operands)
            entry = {
                "op": choice.op.name,
                "kernel": choice.kernel.name,
                "call": vars(sizes),
                "bytes": moved.bytes,
                "floor": least.bytes,
            }
            traffic[json.dumps(entry)] = entry
    return {
        "target": plan.target.name,
        "kernels": [kernel.json() for kernel in compiled],
        "traffic": [traffic[key] for key in sorted(traffic)],
    }


def calls(kernel: Kernel, use: Use, sizes: Sequence[Sizes], phases: tuple[str, ...]) -> list[Any]:
    """How a package calls a kernel: an expression, and the shape and dtype of its variables."""
    given = operands(kernel, use)
    kept: dict[str, TensorType] = {}
    if use.op.written:
        contexts = use.op.types(*use.operands)[-len(use.op.written) :]
        kept = {f"{cache}_rows": c for cache, c in zip(use.op.written, contexts, strict=True)}
    found = []
    for size in sizes:
        pages = in_pages(use.op, size.context)
        code = kernel.call(use.op.at("size"), *map(name, given), phases=phases, **pages)
        types = given
        if kept:
            flat = (name(rows).method("flatten", 0, 1) for rows in kept)
            code = code.given_first(*flat, name("slots"))
            types = {**given, **kept, "slots": given["positions"]}
        variables = {
            key: {"dtype": type.dtype, "shape": shape(use.op, type, size)}
            for key, type in types.items()
        }
        if pages:
            variables["table"] = {"dtype": "int32", "shape": table_shape(use.op, size)}
        found.append({"file": kernel.stem(), "expression": code.text, "operands": variables})
    return found


def calls_of(plan: Plan) -> list[Any]:
    """Calls that reach every configuration of every Triton kernel of a package."""
    found: dict[str, Any] = {}

    def reach(kernel: Kernel, use: Use, phase: str) -> None:
        for sizes in reaching(kernel, use, plan.calls[phase]):
            for call in calls(kernel, use, [sizes], (phase,)):
                found[json.dumps(call, sort_keys=True)] = call

    for choice in plan.choices:
        if not choice.kernel.triton:
            continue
        gradient = plan.gradients.get(choice.kernel.name) if choice.phase == "train" else None
        for kernel in (*plan.chain(choice.kernel), gradient):
            if kernel is not None and kernel.triton:
                reach(kernel, plan.use(choice, kernel), choice.phase)
        for step in plan.steps(choice):
            if step.kernel.triton:
                reach(step.kernel, plan.taken(step), choice.phase)
    return list(found.values())


def reaching(kernel: Kernel, use: Use, usual: Sizes) -> Iterator[Sizes]:
    """Sizes of a call for each of a kernel's configurations, of the kind of a phase's usual one."""
    limits = [limit for limit, _ in use.tiles if limit is not None]
    if not limits:
        yield usual
        return
    for rows in (*limits, 2 * limits[-1]):
        yield kernel.example(use.op, use.operands, rows, usual)


def compile_ahead(
    files: Mapping[str, str],
    calls: Sequence[Any],
    triton: Mapping[str, Any],
    script: str,
    environment: Mapping[str, str] = MappingProxyType({}),
    processes: int = 1,
) -> list[Compiled]:
    """Compile what these calls launch for a target, each kernel and configuration once a process.

    `files` are those of a package, of which `kernels/` is needed; `triton` is what names the target
    to Triton; `environment` is that of the child processes, beside its own variables, which share
    out the files that are called. Raises `EnvironmentMissing` without torch and Triton,
    `ProofError` where a kernel does not compile.
    """
    of: dict[str, list[Any]] = {}
    for call in calls:
        of.setdefault(call["file"], []).append(call)
    shares: list[list[Any]] = [[] for _ in range(max(min(processes, len(of)), 1))]
    for its in sorted(of.values(), key=len, reverse=True):
        min(shares, key=len).extend(its)
    # What a kernel is compiled to must depend on nothing but its text.
    variables = {
        **{key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"},
        "PYTHONDONTWRITEBYTECODE": "1",
        "TRITON_DEFAULT_FP_FUSION": "1",
        "TRITON_DISABLE_LINE_INFO": "1",
        **environment,
    }
    with ThreadPoolExecutor(len(shares)) as pool:
        found = pool.map(lambda its: _share(files, its, triton, script, variables), shares)
        return [kernel for its in found for kernel in its]


def _share(
    files: Mapping[str, str],
    calls: Sequence[Any],
    triton: Mapping[str, Any],
    script: str,
    variables: Mapping[str, str],
) -> list[Compiled]:
    """What one process compiles."""
    with tempfile.TemporaryDirectory(prefix="archsmith-") as temporary:
        folder = Path(temporary)
        for path, text in files.items():
            if path.startswith("kernels/"):
                (folder / "kernels").mkdir(exist_ok=True)
                (folder / path).write_text(text, encoding="utf-8")
        (folder / SCRIPT).write_text(script, encoding="utf-8")
        (folder / "job.json").write_text(json.dumps({"calls": calls, "target": dict(triton)}))
        done = subprocess.run(
            [sys.executable, SCRIPT],
            cwd=folder,
            capture_output=True,
            text=True,
            env={**variables, "TRITON_CACHE_DIR": str(folder / "cache")},
            check=False,
        )
        if done.returncode == 4:
            raise EnvironmentMissing(
                f"compiling ahead of time needs torch and triton: {done.stderr.strip()}\n"
                "  = help: pip install 'archsmith[triton]'"
            )
        if done.returncode:
            said = done.stderr.replace(f"{folder}{os.sep}", "").strip().splitlines()
            raise ProofError("a kernel does not compile: " + "\n  ".join(said[-8:] or ["killed"]))
        facts = json.loads((folder / "facts.json").read_text())
    return [Compiled(**fact) for fact in facts]
