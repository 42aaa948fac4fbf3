"""What there is to look at: mistakes of specs, graphs, what is installed, and explanations."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import ArchsmithError
from .plugins import Registry
from .spec.diagnostics import Diagnostic, Listing, SpecError, accepted, quoted, render
from .spec.load import check
from .spec.source import read

if TYPE_CHECKING:
    from .driver import Compiler
    from .ir.model import Model

KINDS = ("components", "families", "kernels", "ops", "passes", "pipelines", "targets")


@dataclass(frozen=True)
class Checked:
    """A spec that was checked: whether it is one, and what is to be said of it."""

    path: Path
    valid: bool
    listing: Listing
    diagnostics: tuple[Diagnostic, ...]

    def text(self) -> str:
        if not self.diagnostics:
            return f"{self.path}: no mistakes"
        return render(self.listing, self.diagnostics)

    def json(self) -> list[dict[str, Any]]:
        found = []
        for diagnostic in self.diagnostics:
            fields = dataclasses.asdict(diagnostic)
            place = fields.pop("span") or {"line": None, "column": None, "length": None}
            found.append({"file": str(self.path), **fields, **place})
        return found


def check_spec(path: Path, registry: Registry) -> Checked:
    """Every mistake and warning of one file."""
    try:
        source = read(path)
        if isinstance(source.tree, dict) and "pipeline" in source.tree and not registry.passes:
            registry = Registry.installed()  # a quick check has loaded no passes
        spec, diagnostics = check(source, registry.components, registry.families, registry.steps)
    except SpecError as error:
        return Checked(path, False, error.listing, error.diagnostics)
    return Checked(path, spec is not None, source, diagnostics)


def graph(
    compiler: Compiler,
    model: Model,
    passes: Sequence[Any],
    *,
    block: str | None,
    phase: str,
    after: str | None,
    form: str,
) -> str:
    """A model or one of its blocks, after the passes up to `after`, as text or as a picture."""
    from .ir.draw import dot, mermaid, svg
    from .ir.text import print_block, print_model

    names = [p.name for p in passes]
    if after is not None and after not in names:
        help = accepted(after, names, "passes of the pipeline")
        raise ArchsmithError(f"the pipeline does not run {quoted(after)}\n  = help: {help}")
    last = len(names) if after is None else names.index(after) + 1
    model, _ = compiler.rewrite(model, passes[:last])
    if block is not None and block not in model.blocks:
        help = accepted(block, model.blocks, "blocks")
        raise ArchsmithError(f"there is no block {quoted(block)}\n  = help: {help}")
    if form == "text":
        return print_model(model) if block is None else print_block(model.blocks[block])
    if block is None:
        blocks = ", ".join(model.blocks)
        raise ArchsmithError(f"a picture shows one block\n  = help: --block with one of {blocks}")
    draw: Callable[..., str] = {"mermaid": mermaid, "dot": dot, "svg": svg}[form]
    return draw(model.blocks[block].graph(phase))


def listing(registry: Registry, what: str | None) -> dict[str, dict[str, str]]:
    """What is installed of each kind, with a line about each."""
    if what is not None and what not in KINDS:
        help = accepted(what, KINDS, "kinds")
        raise ArchsmithError(f"nothing is listed under {quoted(what)}\n  = help: {help}")
    tables: dict[str, dict[str, str]] = {}
    for kind in KINDS if what is None else (what,):
        plugins: dict[str, Any] = getattr(registry, kind)
        tables[kind] = {name: _line(plugins[name]) for name in sorted(plugins)}
    return tables


def table(tables: dict[str, dict[str, str]]) -> str:
    """A listing as text, under headings where it has several kinds."""
    lines = []
    indent = "  " if len(tables) > 1 else ""
    for kind, rows in tables.items():
        if indent:
            lines.append(f"{kind}:")
        width = max(map(len, rows), default=0)
        lines += [f"{indent}{name:{width}}  {line}".rstrip() for name, line in rows.items()]
    return "\n".join(lines)


def pass_page(registry: Registry, name: str) -> str:
    """A pass's page: what it does, its effect, phases and options."""
    if name not in registry.passes:
        help = accepted(name, registry.passes, "passes")
        raise ArchsmithError(f"no pass is called {quoted(name)}\n  = help: {help}")
    plugin = registry.passes[name]
    options = [f"{f.name} ({f.type})" for f in dataclasses.fields(plugin)]
    where = [p for p, passes in registry.pipelines.items() if name in passes]
    return "\n".join(
        [
            f"{name}: {inspect.getdoc(plugin)}",
            "",
            f"effect: {plugin.effect}",
            f"phases: {', '.join(plugin.phases)}",
            f"options: {', '.join(options) or 'none'}",
            f"pipelines: {', '.join(where) or 'none'}",
            f"defined in: {plugin.__module__}",
        ]
    )


def why_not(compiler: Compiler, model: Model, before: Sequence[Any], chosen: Any) -> str:
    """What a pass does to a model after the passes before it, and why it leaves the rest alone."""
    model, _ = compiler.rewrite(model, before)
    metric = getattr(chosen.effect, "metric", None)  # what is lost is for a build to measure
    judge = None if metric is None else lambda *_: {metric: 0.0}
    _, (outcome,) = compiler.rewrite(model, [chosen], judge)
    lines = [f"{outcome.name} applies {outcome.applications} times"]
    lines += [f"changed {remark}" for remark in outcome.remarks]
    return "\n".join([*lines, *(f"left alone {refusal}" for refusal in outcome.refusals)])


def _line(plugin: Any) -> str:
    if isinstance(plugin, tuple):
        return ", ".join(plugin) or "nothing"
    if hasattr(plugin, "describes"):
        return str(plugin.describes)
    if hasattr(plugin, "implements"):
        return f"computes {plugin.implements}"
    return (inspect.getdoc(plugin) or "").partition("\n")[0]
