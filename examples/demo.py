"""What archsmith does, in a minute: a published configuration, a spec, a package, and tokens."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from archsmith.compiler.driver import Compiler, Report
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

HERE = Path(__file__).parent
OUT = HERE.parent / "build" / "demo"


def main() -> None:
    console = Console()
    compiler = Compiler.installed(watch=lambda doing: console.print(f"  {doing}", style="dim"))

    console.rule("1. A Hugging Face configuration becomes a page of YAML")
    text, _ = compiler.read_configuration(HERE / "configs" / "deepseek-v2-lite.json", None)
    OUT.mkdir(parents=True, exist_ok=True)
    page = OUT / "deepseek-v2-lite.yaml"
    page.write_text(text)
    console.print(Syntax(text, "yaml", background_color="default"))

    console.rule("2. The page becomes a package, and both are proved the same")
    large = build(compiler, page, "deepseek_v2_lite")
    console.print(
        f"\n{large.folder.relative_to(OUT.parent.parent)}/model.py, one of its classes:\n"
    )
    source = (large.folder / "model.py").read_text()
    shown = source[source.index("class Sparse") : source.index("class Model")]
    console.print(Syntax(shown.rstrip(), "python", background_color="default"))

    console.rule("3. A tiny one, which runs here")
    tiny = build(compiler, HERE / "tiny-deepseek-v2.yaml", "tiny_deepseek_v2")
    sys.path.insert(0, str(OUT))
    package = importlib.import_module(tiny.folder.name)
    torch = importlib.import_module("torch")
    torch.manual_seed(0)
    model = package.Model(package.Config())
    prompt = torch.tensor([[1, 2, 3, 4]])
    new = package.generate(model, prompt, max_new_tokens=16, temperature=1.0)
    console.print(f"\ntokens {prompt[0].tolist()}, and 16 more from random weights:")
    console.print(f"{new[0].tolist()}\n")

    console.rule("4. What was made")
    console.print(summary([large, tiny]))


def build(compiler: Compiler, page: Path, name: str) -> Report:
    pipeline, passes = compiler.passes(None)
    return compiler.package(compiler.load(page), OUT / name, pipeline, passes, force=True)


def summary(reports: list[Report]) -> Table:
    table = Table("", *(report.folder.name for report in reports))
    table.add_row("files", *(str(len(report.files)) for report in reports))
    table.add_row("parameters", *(f"{report.parameters:,}" for report in reports))
    table.add_row("cache bytes per token", *(f"{r.cache_bytes_per_token:,}" for r in reports))
    for rows in zip(*(report.outcomes for report in reports), strict=True):
        did = (f"applied {o.applications}, left alone {len(o.refusals)}" for o in rows)
        table.add_row(rows[0].name, *did)
    trials = (sum(o.trials for o in report.outcomes) for report in reports)
    table.add_row("comparisons of passes", *map(str, trials))
    proofs = [str(r.proof.trials) if r.proof else r.unproved for r in reports]
    table.add_row("comparisons of the package", *proofs)
    return table


if __name__ == "__main__":
    main()
