"""Commands about graphs: graph, opt, bisect."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from .options import JSON, OUTPUT, PIPELINE, SPEC, TARGET, VERIFY, write


@click.command()
@SPEC
@click.option("--block", help="One block only.")
@click.option("--phase", type=click.Choice(["train", "prefill", "decode"]), default="train")
@click.option("--after", help="After the passes of the pipeline up to this one.")
@PIPELINE
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "mermaid", "dot", "svg"]),
    default="text",
    show_default=True,
)
@OUTPUT
def graph(
    spec: Path,
    block: str | None,
    phase: str,
    after: str | None,
    pipeline: str | None,
    form: str,
    output: Path | None,
) -> None:
    """Show the graph of a spec, before passes or after some.

    \b
      archsmith graph model.yaml --block sparse --after fuse-gate-up
      archsmith graph model.yaml --block sparse --format svg -o sparse.svg
    """
    from ..driver import Compiler
    from ..files import not_itself
    from ..views import graph as view

    compiler = Compiler.installed("cpu")
    loaded = compiler.load(spec)
    not_itself(spec, output)
    wanted = after is not None or pipeline is not None
    _, passes = compiler.passes(pipeline or loaded.pipeline) if wanted else ("", [])
    model = compiler.build(loaded)
    write(view(compiler, model, passes, block=block, phase=phase, after=after, form=form), output)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--passes", required=True, help="Pipelines and passes: O1,a,b{option=1},c before a.")
@TARGET
@VERIFY
@OUTPUT
def opt(file: Path, passes: str, target: str, verify_each: str, output: Path | None) -> None:
    """Run passes on the text form of a graph, each application proved.

    \b
      archsmith graph model.yaml > model.ir
      archsmith opt model.ir --passes fuse-gate-up
    """
    from ..driver import Compiler
    from ..files import not_itself, read_text
    from ..ir.parse import parse_model
    from ..ir.text import print_model

    compiler = Compiler.installed(target, numeric=verify_each == "numbers")
    _, chosen = compiler.passes(passes)
    not_itself(file, output)
    model = parse_model(read_text(file), compiler.registry.ops)
    model, outcomes = compiler.rewrite(model, chosen)
    for outcome in outcomes:
        click.echo(f"{outcome.name}: applied {outcome.applications} times", err=True)
        for remark in outcome.remarks:
            click.echo(f"  changed {remark}", err=True)
        for refusal in outcome.refusals:
            click.echo(f"  left alone {refusal}", err=True)
    write(print_model(model), output)


@click.command()
@SPEC
@PIPELINE
@TARGET
@click.option("--package", is_flag=True, help="Prove the package after each pass too, in torch.")
@JSON
def bisect(spec: Path, pipeline: str | None, target: str, package: bool, as_json: bool) -> None:
    """Name the first pass after which a model is not what it was before all of them.

    \b
      archsmith bisect model.yaml --pipeline O2

    Exits with 3 where there is one, and says in which block, and the first value that differs.
    """
    from ..bisection import bisect as search
    from ..driver import Compiler
    from ..show import Progress

    with Progress() as progress:
        compiler = Compiler.installed(target, progress.show)
        loaded = compiler.load(spec)
        _, passes = compiler.passes(pipeline or loaded.pipeline)
        found = search(compiler, loaded, passes, package=package)
    if as_json:
        click.echo(json.dumps(found.json() if found else {"differs": False}, indent=2))
    else:
        click.echo(found.text() if found else f"no pass differs, of {len(passes)}", err=True)
    sys.exit(3 if found else 0)
