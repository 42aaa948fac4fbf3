"""From a plan to the files of a package."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from textwrap import wrap
from typing import Any

from ..errors import PluginError
from ..ir.count import cache_bytes, parameters
from ..ir.dims import Which
from ..ir.text import print_model
from ..ir.types import BYTES
from ..ops.quantized_rows import QuantizeRows
from ..schedule.plan import Plan
from .cases import appends, cases, has_gluon, imports, reads_pages, routes
from .chosen import chosen, gradients
from .environment import render
from .kernels import kernel_files, launches_file, operators_file
from .layout import WIDTH
from .listing import Tensors
from .module import Module
from .values import Json, Name, Prose, Source, Text
from .write import GRAPH, PLAN, digest

TEMPLATES = (
    "__init__.py",
    "balance.py",
    "cache.py",
    "capture.py",
    "checkpoint.py",
    "computed.py",
    "converted.py",
    "draft.py",
    "files.py",
    "float8.py",
    "formats.py",
    "generate.py",
    "kernels.py",
    "launches.py",
    "loss.py",
    "model.py",
    "mxfp4.py",
    "operators.py",
    "paged_cache.py",
    "ring.py",
    "routes.py",
    "speculate.py",
    "step.py",
    "test_drafts.py",
    "test_package.py",
    "try_appends.py",
    "try_routers.py",
    "try_exact.py",
    "try_kernels.py",
    "try_launches.py",
    "try_on_gpu.py",
    "try_pages.py",
    "try_rings.py",
    "try_short.py",
    "try_steps.py",
    "try_tables.py",
    "weights.py",
    "README.md",
)


NO_CHECKPOINT: Mapping[str, Any] = {
    "family": None,
    "fields": {},
    "others": {},
    "absent": {},
    "null": {},
    "aliases": {},
}
"""What a package expects of a checkpoint's configuration where its spec names no family."""


@dataclass(frozen=True)
class Facts:
    """What a package says of itself beside its code; plain values that hold no path and no date."""

    version: str
    vocab_size: int
    hidden_size: int
    max_positions: int
    target: str
    pipeline: str
    certificate: Mapping[str, Any]
    checkpoint: Mapping[str, Any] = field(default_factory=lambda: dict(NO_CHECKPOINT))
    """The fields of a configuration that a checkpoint must agree with."""
    copies: Mapping[str, str] = field(default_factory=dict)
    """Tensors that a checkpoint may hold if they are equal to another one."""
    repeated: tuple[str, ...] = ()
    """Those of them that a checkpoint of the family does hold."""


def emit(
    plan: Plan,
    templates: Mapping[str, str],
    facts: Facts,
    which: Which = "size",
    *,
    trace: bool = False,
    aot: Mapping[str, Any] | None = None,
) -> dict[str, str]:
    """The text of every file by its path; the same input gives the same bytes.

    `which` "probe" writes the same package at probe sizes; `trace` has it tell what it computes;
    `aot` is what it is to report of its kernels.
    """
    missing = [name for name in TEMPLATES if name not in templates]
    if missing:
        raise PluginError(f"no installed plugin has a template of {', '.join(missing)}")
    module = Module(plan, which, trace)
    values = _values(module, facts)
    loss = render(templates["loss.py"], values, python=False)
    values["loss"] = Source(tuple(loss.rstrip().splitlines()))
    files = {
        "__init__.py": render(templates["__init__.py"], values),
        "cache.py": render(templates["cache.py"], values),
        "capture.py": render(templates["capture.py"], values),
        "checkpoint.py": render(templates["checkpoint.py"], values),
        "converted.py": render(templates["converted.py"], values),
        "files.py": render(templates["files.py"], values),
        "float8.py": render(templates["float8.py"], values),
        "formats.py": render(templates["formats.py"], values),
        "generate.py": render(templates["generate.py"], values),
        "model.py": render(templates["model.py"], values),
        "mxfp4.py": render(templates["mxfp4.py"], values),
        "step.py": render(templates["step.py"], values),
        "weights.py": render(templates["weights.py"], values),
        "kernels/__init__.py": render(templates["kernels.py"], values),
        "tests/__init__.py": '"""The package\'s checks of itself."""\n',
        "tests/kernels.py": render(templates["try_kernels.py"], values),
        "tests/short.py": render(templates["try_short.py"], values),
        "tests/steps.py": render(templates["try_steps.py"], values),
        "tests/test_package.py": render(templates["test_package.py"], values),
        "README.md": render(templates["README.md"], values, python=False),
    }
    if values["tensors"].computed:
        files["computed.py"] = render(templates["computed.py"], values)
    if module.routed:
        files["balance.py"] = render(templates["balance.py"], values)
        files["routes.py"] = render(templates["routes.py"], values)
    if module.drafts:
        files["draft.py"] = render(templates["draft.py"], values)
        files["speculate.py"] = render(templates["speculate.py"], values)
        files["tests/test_drafts.py"] = render(templates["test_drafts.py"], values)
    if module.page is not None:
        files["paged_cache.py"] = render(templates["paged_cache.py"], values)
        files["tests/pages.py"] = render(templates["try_pages.py"], values)
    if module.windowed:
        files["ring.py"] = render(templates["ring.py"], values)
        files["tests/rings.py"] = render(templates["try_rings.py"], values)
    files |= kernel_files(plan, values)
    if values["triton_used"]:
        files |= launches_file(templates["launches.py"], plan.target)
    header = _header(plan, facts)
    files = {p: header + t if p.endswith(".py") else t for p, t in files.items()}
    if values["triton_used"]:
        own = {
            "cases": cases(plan),
            "imports": imports(plan),
            "gradients": bool(plan.gradients),
            "gluon": has_gluon(plan),
            "near": any(
                c.op.attributes().get("activations") is True or isinstance(c.op, QuantizeRows)
                for c in plan.choices
            ),
        }
        if values["routes"]:
            text = render(templates["try_routers.py"], values)
            files["tests/routed.py"] = header + text
        if values["appends"]:
            text = render(templates["try_appends.py"], values)
            files["tests/appended.py"] = header + text
        if reads_pages(plan):
            files["tests/tables.py"] = header + render(templates["try_tables.py"], values)
        for tried in ("exact", "launches", "on_gpu"):
            text = render(templates[f"try_{tried}.py"], values | own)
            files[f"tests/{tried}.py"] = header + text
        operators = operators_file(templates["operators.py"], files, BYTES[plan.model.dtype])
        files["kernels/operators.py"] = header + operators
    if aot is not None:
        files["aot.json"] = f"{Json(aot)}\n"
    files[GRAPH] = print_model(plan.model)
    files["config.json"] = f"{Json(_config(plan, facts))}\n"
    files[PLAN] = f"{Json(_plan(plan, facts, files))}\n"
    return dict(sorted(files.items()))


def emit_kernels(
    plans: Sequence[tuple[Plan, Collection[str]]], templates: Mapping[str, str]
) -> list[dict[str, str]]:
    """The files in `kernels/` alone, without a header, of plans that have the same kernels.

    Of each but the first, only the files of these stems are its own.
    """
    plan, _ = plans[0]
    values = _values(Module(plan, "size", False), Facts("", 1, 1, 1, plan.target.name, "", {}))
    files = {"kernels/__init__.py": render(templates["kernels.py"], values)}
    files |= kernel_files(plan, values) | launches_file(templates["launches.py"], plan.target)
    operators = operators_file(templates["operators.py"], files, BYTES[plan.model.dtype])
    files["kernels/operators.py"] = operators
    return [files, *(files | kernel_files(other, values, only) for other, only in plans[1:])]


def _values(module: Module, facts: Facts) -> dict[str, Any]:
    """What all templates are given."""
    plan, which = module.plan, module.which
    model = plan.model
    functions = module.functions
    return {
        "module": module,
        "name": Text(model.name),
        "title": Prose(model.name),
        "dtype": Name(model.dtype),
        "vocab_size": facts.vocab_size,
        "hidden_size": facts.hidden_size,
        "max_positions": facts.max_positions,
        "layers": model.layers,
        "parameters": Prose(f"{parameters(model):,}"),
        "bytes_per_token": Prose(f"{cache_bytes(model):,}"),
        "version": Prose(facts.version),
        "target": Prose(facts.target),
        "pipeline": Prose(facts.pipeline),
        "family": Prose(facts.checkpoint["family"]) if facts.checkpoint["family"] else None,
        "functions": [Name(f) for f in sorted({f for _, names in functions for f in names})],
        "kernels": [(Name(stem), [Name(f) for f in names]) for stem, names in functions],
        "stems": [kernel.stem() for kernel in plan.emitted()],
        "appends": appends(plan),
        "routes": routes(plan),
        "triton_used": any(kernel.triton for kernel in plan.used()),
        "early": "pdl" in plan.target.features,
        "tensors": Tensors(module, which, facts.copies, facts.repeated),
    }


def _header(plan: Plan, facts: Facts) -> str:
    """The comment that every file begins with."""
    said = Prose(
        f"{plan.model.name} for {facts.target}, written by archsmith {facts.version}"
        f" with pipeline {facts.pipeline}."
    )
    lines = wrap(str(said), WIDTH - 2, break_long_words=False, break_on_hyphens=False)
    return "".join(f"# {line}\n" for line in lines)


def _config(plan: Plan, facts: Facts) -> dict[str, Any]:
    return {
        "name": plan.model.name,
        "dtype": plan.model.dtype,
        "vocab_size": facts.vocab_size,
        "hidden_size": facts.hidden_size,
        "max_positions": facts.max_positions,
        "layers": plan.model.layers,
        "checkpoint": facts.checkpoint,
    }


def _plan(plan: Plan, facts: Facts, files: Mapping[str, str]) -> dict[str, Any]:
    return {
        "archsmith": facts.version,
        "spec": plan.model.name,
        "target": facts.target,
        "pipeline": facts.pipeline,
        "parameters": parameters(plan.model),
        "cache_bytes_per_token": cache_bytes(plan.model),
        "kernels": {block: chosen(plan, block) for block in plan.blocks},
        "gradients": list(gradients(plan)),
        "certificate": facts.certificate,
        "files": {path: digest(text) for path, text in files.items()},
    }
