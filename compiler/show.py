"""What people see of a build: progress while it runs, and a summary at its end."""

from __future__ import annotations

import dataclasses
import inspect
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.table import Table

from .driver import Report
from .errors import ArchsmithError
from .plugins import Registry
from .spec.diagnostics import accepted, quoted

KINDS = ("components", "families", "kernels", "ops", "passes", "pipelines", "targets")


class Progress:
    """A line on a terminal that says what is being done; silent elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True)
        self._status = self._console.status("") if self._console.is_terminal else None

    def __enter__(self) -> Progress:
        if self._status is not None:
            self._status.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._status is not None:
            self._status.stop()

    def show(self, doing: str) -> None:
        if self._status is not None:
            self._status.update(doing)


def summary(report: Report, dry_run: bool) -> None:
    """Print what was made, what the passes did, and what was proved, to stderr."""
    console = Console(stderr=True, highlight=False)
    written = [path for path, what in report.files.items() if what != "removed"]
    table = Table(title=f"{report.folder}" + (" (dry run)" if dry_run else ""), show_header=False)
    table.add_row("files", f"{len(written)}")
    table.add_row("target", report.target)
    table.add_row("parameters", f"{report.parameters:,}")
    table.add_row("cache bytes per token", f"{report.cache_bytes_per_token:,}")
    for outcome in report.outcomes:
        did = f"applied {outcome.applications} times"
        if outcome.refusals:
            did += f", left {len(outcome.refusals)} alone"
        if outcome.trials:
            did += f"; proved in {outcome.trials} trials, error {outcome.error:.1e}"
        table.add_row(f"pass {outcome.name}", did)
    if report.proof is not None:
        proof = report.proof
        table.add_row("package", f"proved in {proof.trials} trials, error {proof.error:.1e}")
    else:
        table.add_row("package", f"not proved: {report.unproved}")
    console.print(table)


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


def explain_pass(registry: Registry, name: str) -> str:
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


def _line(plugin: Any) -> str:
    if isinstance(plugin, tuple):
        return ", ".join(plugin) or "nothing"
    if hasattr(plugin, "describes"):
        return str(plugin.describes)
    if hasattr(plugin, "implements"):
        return f"computes {plugin.implements}"
    return (inspect.getdoc(plugin) or "").partition("\n")[0]
