"""Commands about plugins: list, explain, new."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .options import JSON, TARGET


@click.command(name="list")
@click.argument("what", required=False)
@JSON
def list_(what: str | None, as_json: bool) -> None:
    """List what is installed: passes, ops, kernels, components, targets, families, pipelines.

    \b
      archsmith list passes
    """
    from ..plugins import Registry
    from ..views import listing, table

    tables = listing(Registry.installed(), what)
    click.echo(json.dumps(tables, indent=2) if as_json else table(tables))


@click.command()
@click.argument("what")
@click.option("--pass", "pass_name", help="Why a pass leaves parts of the spec WHAT alone.")
@TARGET
def explain(what: str, pass_name: str | None, target: str) -> None:
    """Explain a diagnostic's code, a pass, or what a pass does to a spec.

    \b
      archsmith explain E0210
      archsmith explain pass:fuse-gate-up
      archsmith explain model.yaml --pass fuse-append --target h200
    """
    from ..driver import Compiler
    from ..spec.explain import explain as page
    from ..views import pass_page, why_not

    if pass_name is None and not what.startswith("pass:"):
        click.echo(page(what))
        return
    compiler = Compiler.installed(target)
    if pass_name is None:
        click.echo(pass_page(compiler.registry, what.removeprefix("pass:")))
        return
    loaded = compiler.load(Path(what))
    _, passes = compiler.passes(loaded.pipeline)
    _, chosen = compiler.passes(pass_name)
    names = [p.name for p in passes]
    before = passes[: names.index(pass_name)] if pass_name in names else passes
    click.echo(why_not(compiler, compiler.build(loaded), before, chosen[0]))


@click.command()
@click.argument("kind", type=click.Choice(["pass"]))
@click.argument("name")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Its folder. [default: archsmith-NAME]"
)
def new(kind: str, name: str, output: Path | None) -> None:
    """Write a plugin of your own to begin with: it installs, and its tests pass.

    \b
      archsmith new pass fuse-scales
      pip install -e archsmith-fuse-scales
    """
    from ..plugins import Registry
    from ..scaffolding.scaffold import scaffold, write

    folder = output or Path(f"archsmith-{name}")
    texts = scaffold(name, Registry.installed())
    write(folder, texts)
    for path in texts:
        click.echo(f"wrote {folder / path}", err=True)
    click.echo(f"  = help: pip install -e {folder}, then pytest in it", err=True)
