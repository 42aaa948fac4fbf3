"""What people see of a build: a line while it runs, and a summary at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bar
from rich.table import Table

from .emit.aot import Compiled
from .report import Report


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


class _Bar:
    """A bar on a terminal, of these columns; else silent."""

    def __init__(self, *columns: ProgressColumn) -> None:
        console = Console(stderr=True)
        shown = TextColumn("{task.description}"), BarColumn(), *columns, TimeRemainingColumn()
        self._bar = Bar(*shown, console=console, disable=not console.is_terminal)
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.stop()

    def begin(self, doing: str, total: int) -> None:
        self._task = self._bar.add_task(escape(doing), total=total)


class Bytes(_Bar):
    """How many bytes of how many, how fast, and how long yet."""

    def __init__(self) -> None:
        super().__init__(DownloadColumn(), TransferSpeedColumn())

    def advance(self, count: int) -> None:
        if self._task is not None:
            self._bar.advance(self._task, count)


class Steps(_Bar):
    """How many steps of how many, and how long yet."""

    def __init__(self) -> None:
        super().__init__(MofNCompleteColumn())

    def advance(self, doing: str) -> None:
        """One step is done, and this is next."""
        if self._task is not None:
            self._bar.update(self._task, advance=1, description=escape(doing))


def summary(report: Report, dry_run: bool) -> None:
    """Print what was made, what the passes did, and what was proved, to stderr."""
    console = Console(stderr=True, highlight=False)
    written = [path for path, what in report.files.items() if what != "removed"]
    title = f"{report.folder} (nothing written)" if dry_run else str(report.folder)
    table = Table(title=title, show_header=False)
    table.add_row("files", str(len(written)))
    edited = [path for path, what in report.files.items() if what == "edited"]
    if edited:
        table.add_row("edited by you", ", ".join(edited))
    table.add_row("target", report.target)
    table.add_row("parameters", f"{report.parameters:,}")
    table.add_row("cache bytes per token", f"{report.cache_bytes_per_token:,}")
    for outcome in report.outcomes:
        did = f"applied {outcome.applications} times"
        if outcome.refusals:
            did += f", left {len(outcome.refusals)} alone"
        if outcome.trials:
            did += f"; proved in {outcome.trials} trials, error {outcome.error:.0e}"
        table.add_row(f"pass {outcome.name}", did)
    if report.proof is not None:
        proof = report.proof
        table.add_row("package", f"proved in {proof.trials} trials, error {proof.error:.0e}")
    else:
        table.add_row("package", f"not proved: {report.unproved}")
    console.print(table)
    for note in report.stale:
        console.print(f"note: {escape(note)}", soft_wrap=True)
    if report.compiled:
        console.print(kernels(report.compiled))


def kernels(compiled: Sequence[Compiled]) -> Table:
    """The kernels that were compiled ahead of time, and below each what its calls differ in.

    Of several binaries with the same constants, the one that spills most.
    """
    table = Table(
        title="kernels, compiled ahead of time",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("kernel, and its constants", overflow="fold")
    for column in ("registers", "spilled", "shared", "products", "bytes"):
        table.add_column(column, justify="right", no_wrap=True)
    ways: dict[tuple[str, str], dict[str, Compiled]] = {}
    for kernel in sorted(compiled, key=lambda kernel: (kernel.spills, kernel.registers)):
        ways.setdefault((kernel.file, kernel.kernel), {})[_constants(kernel.options)] = kernel
    for (_, name), of in sorted(ways.items()):
        first, *others = sorted(of.values(), key=lambda kernel: list(kernel.options.values()))
        alike = {
            key: value
            for key, value in first.options.items()
            if all(kernel.options.get(key) == value for kernel in others)
        }
        table.add_row(f"{name} {_constants(alike)}", *([] if others else _numbers(first)))
        for kernel in (first, *others) if others else ():
            own = {key: n for key, n in kernel.options.items() if key not in alike}
            table.add_row(Padding(_constants(own), (0, 0, 0, 2)), *_numbers(kernel))
    return table


def _constants(options: Mapping[str, int]) -> str:
    return " ".join(f"{key.removeprefix('num_')}={value}" for key, value in options.items())


def _numbers(kernel: Compiled) -> list[str]:
    """Registers and spilled bytes of a thread, shared bytes, matrix instructions by the first word
    of their names, and bytes of the binary."""
    counts = [f"{n:,}" for n in (kernel.registers, kernel.spills, kernel.shared)]
    products = [f"{n} {what.partition('.')[0]}" for what, n in kernel.instructions.items()]
    return [*counts, " ".join(products) or "-", f"{kernel.size:,}"]
