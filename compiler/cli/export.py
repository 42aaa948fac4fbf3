"""The command that hands a model to other compilers: export."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .options import JSON, OUTPUT, PIPELINE, SPEC, write


@click.command()
@SPEC
@click.option("--to", type=click.Choice(["mlir"]), required=True, help="The form to export to.")
@OUTPUT
@click.option("--batch", default=1, show_default=True, help="Rows of the call.")
@click.option("--tokens", default=16, show_default=True, help="Tokens of each row.")
@click.option(
    "--dtype",
    type=click.Choice(["bfloat16", "float16", "float32", "float64"]),
    help="Another than the spec's.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="A Hugging Face checkpoint to put in as constants; else weights are arguments.",
)
@PIPELINE
@click.option("--proof/--no-proof", default=True, help="Prove the package that is lowered.")
@JSON
def export(
    spec: Path,
    to: str,
    output: Path | None,
    batch: int,
    tokens: int,
    dtype: str | None,
    weights: Path | None,
    pipeline: str | None,
    proof: bool,
    as_json: bool,
) -> None:
    """Write the prefill of a spec as MLIR, linalg on tensors.

    \b
      archsmith export model.yaml --to mlir -o model.mlir

    The comment on top of the file names every argument and result; --json prints them too.
    """
    from ..driver import Compiler
    from ..emit.export import Call
    from ..errors import ArchsmithError
    from ..files import not_itself
    from ..show import Progress

    if as_json and output is None:
        raise click.UsageError("--json takes stdout, so -o must say where the module goes")
    if weights is not None and not weights.is_dir():
        raise ArchsmithError(f"--weights {weights} is no folder with a checkpoint")
    with Progress() as progress:
        compiler = Compiler.installed(to, progress.show)
        loaded = compiler.load(spec)
        not_itself(spec, output)
        name, passes = compiler.passes(pipeline or loaded.pipeline)
        call = Call(batch, tokens, dtype, weights)
        exported = compiler.export(loaded, name, passes, call, prove=proof)
    write(exported.text, output)
    if as_json:
        click.echo(json.dumps(exported.signature, indent=2))
