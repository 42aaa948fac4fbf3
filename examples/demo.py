"""What archsmith does, in a minute: a published configuration, a spec, a package, and tokens."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from archsmith.compiler.driver import Compiler
from archsmith.compiler.report import Report
from archsmith.compiler.show import kernels
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.syntax import Syntax
from rich.table import Table

HERE = Path(__file__).parent
OUT = Path("build", "demo")
GPU = "h200"
WIDTH = 112  # of emitted code and its line numbers, where no terminal says how wide it is


def main() -> None:
    console = Console()
    if not console.is_terminal:
        console = Console(width=WIDTH)
    compiler, gpu = Compiler.installed(), Compiler.installed(GPU)
    OUT.mkdir(parents=True, exist_ok=True)

    console.rule("1. A Hugging Face configuration becomes a page of YAML")
    configuration = HERE / "configs" / "deepseek-v2-lite.json"
    text, warnings = compiler.read_configuration(configuration, None)
    page = OUT / "deepseek-v2-lite.yaml"
    page.write_text(text, encoding="utf-8")
    console.print(f"{configuration.relative_to(HERE.parent)} -> {page} {warnings}\n")
    console.print(Syntax(text, "yaml", background_color="default", word_wrap=True))

    console.rule(f"2. The page becomes a package for {GPU}; each pass, and the package, is proved")
    large = build(gpu, page, "deepseek_v2_lite", console, aot=True)
    console.print(f"\nOne class of {large.folder}/model.py:\n")
    source = (large.folder / "model.py").read_text(encoding="utf-8")
    shown = source[source.index("class Sparse") : source.index("class Model")]
    console.print(Syntax(shown.rstrip(), "python", background_color="default", word_wrap=True))

    console.rule("3. Kernels were chosen for it, and compiled: that takes no GPU")
    console.print(kernels(large.compiled))
    for line in choices(large.folder):
        console.print(line, highlight=False)

    console.rule("4. A tiny one of the same form runs here")
    tiny = build(compiler, HERE / "tiny-deepseek-v2.yaml", "tiny_deepseek_v2", console)
    prompt, new = generate(tiny.folder)
    console.print(f"\ntokens {prompt}, and what a model of random weights adds:\n{new}\n")

    console.rule("5. What was made")
    console.print(summary([large, tiny]))
    console.print("\nLeft alone, and why:")
    for line in reasons([large, tiny]):
        console.print(f"  {line}", highlight=False)
    console.print(f"\nBoth packages are in {OUT}/; plan.json says how each was made.")


def build(
    compiler: Compiler, page: Path, name: str, console: Console, *, aot: bool = False
) -> Report:
    """Build a page into OUT, showing what is done: as a bar on a terminal, else as lines."""
    pipeline, passes = compiler.passes(None)
    spec = compiler.load(page)
    if not console.is_terminal:
        watched = replace(compiler, watch=lambda doing: console.print(f"  {doing}"))
        return watched.package(spec, OUT / name, pipeline, passes, aot=aot, force=True)
    columns = SpinnerColumn(), TextColumn("{task.description:24}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=console) as progress:
        # The graph before them; the proof of the package, its kernels and its files after.
        steps = len(passes) + 3 + aot
        task = progress.add_task("", total=steps)
        done = iter(range(steps))
        watched = replace(
            compiler,
            watch=lambda doing: progress.update(task, description=doing, completed=next(done)),
        )
        report = watched.package(spec, OUT / name, pipeline, passes, aot=aot, force=True)
        progress.update(task, description=name, completed=steps)
    return report


def generate(folder: Path) -> tuple[list[int], list[int]]:
    """Import a package as its owner would; some tokens, and those that it adds to them."""
    sys.path.insert(0, str(folder.parent.resolve()))
    torch = importlib.import_module("torch")
    package = importlib.import_module(folder.name)
    torch.manual_seed(0)
    model = package.Model(package.Config())
    prompt = torch.tensor([[1, 2, 3, 4]])
    new = package.generate(model, prompt, max_new_tokens=16, temperature=1.0)
    return prompt[0].tolist(), new[0].tolist()


def choices(folder: Path) -> Iterator[str]:
    """For each op of the deepest block that kernels compete for: which was taken, and why."""
    blocks = json.loads((folder / "plan.json").read_text())["kernels"]
    for entry in blocks["sparse"]:
        if "refused" in entry and "decode" in entry["phases"]:
            yield f"\n{', '.join(entry['nodes'])}: {entry['kernel']} in decode"
            yield from (f"  not {name}: {why}" for name, why in entry["refused"].items())


def summary(reports: list[Report]) -> Table:
    table = Table("", *(report.folder.name for report in reports))
    table.add_row("target", *(report.target for report in reports))
    table.add_row("files", *(str(len(report.files)) for report in reports))
    table.add_row("parameters", *(f"{report.parameters:,}" for report in reports))
    table.add_row("cache bytes per token", *(f"{r.cache_bytes_per_token:,}" for r in reports))
    for rows in zip(*(report.outcomes for report in reports), strict=True):
        did = (f"changed {o.applications}, left alone {len(o.refusals)}" for o in rows)
        table.add_row(f"pass {rows[0].name}", *did)
    table.add_section()
    table.add_row("passes, proved by", *map(of_passes, reports))
    table.add_row("package, proved by", *map(of_package, reports))
    return table


def of_passes(report: Report) -> str:
    trials = sum(outcome.trials for outcome in report.outcomes)
    error = max(outcome.error for outcome in report.outcomes)
    return f"{trials} comparisons, error {error:.0e}"


def of_package(report: Report) -> str:
    if report.proof is None:
        return f"nothing: {report.unproved}"
    return f"{report.proof.trials} comparisons, error {report.proof.error:.0e}"


def reasons(reports: list[Report]) -> Iterator[str]:
    """Each refusal once, with the package and the pass."""
    for report in reports:
        for outcome in report.outcomes:
            for refusal in outcome.refusals:
                yield f"{report.folder.name}: {outcome.name}: {refusal}"


if __name__ == "__main__":
    main()
