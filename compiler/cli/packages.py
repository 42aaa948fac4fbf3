"""Commands about packages: build, plan, run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from .options import JSON, PIPELINE, SPEC, TARGET, TUNED, VERIFY


@click.command()
@SPEC
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The package's folder."
)
@TARGET
@PIPELINE
@VERIFY
@click.option("--proof/--no-proof", default=True, help="Prove the emitted package, in torch.")
@click.option("--aot", is_flag=True, help="Compile its kernels for the target, and report them.")
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    help="A Hugging Face checkpoint, on which the loss of lossy passes is measured.",
)
@TUNED
@click.option("--force", is_flag=True, help="Overwrite files that were edited.")
@click.option("--dry-run", is_flag=True, help="Do all but write.")
@JSON
def build(
    spec: Path,
    output: Path,
    target: str,
    pipeline: str | None,
    verify_each: str,
    proof: bool,
    aot: bool,
    weights: Path | None,
    tuned: Path | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Build a package from a spec, and prove it.

    \b
      archsmith build model.yaml -o my_model

    The folder is the package, its base name the name to import. Files that you edited are not
    overwritten, and all others of the folder stay. Nothing needs a GPU, --aot neither.
    """
    from ..driver import Compiler
    from ..show import Progress, summary

    with Progress() as progress:
        numeric = verify_each == "numbers"
        compiler = Compiler.installed(target, progress.show, numeric=numeric, tuned=tuned)
        loaded = compiler.load(spec)
        name, passes = compiler.passes(pipeline or loaded.pipeline)
        report = compiler.package(
            loaded,
            output,
            name,
            passes,
            prove=proof,
            aot=aot,
            weights=weights,
            force=force,
            dry_run=dry_run,
        )
    if as_json:
        click.echo(json.dumps(report.json(), indent=2))
    else:
        summary(report, dry_run)


@click.command()
@click.argument(
    "specs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="SPEC..."
)
@click.option("--target", "targets", multiple=True, default=("cpu",), show_default=True)
@PIPELINE
@click.option("--batch", type=click.IntRange(1), default=1, show_default=True, help="Rows.")
@click.option(
    "--context",
    type=click.IntRange(1),
    help="Tokens of each row: new in prefill, cached in decode. [default: 4096, or all that fit]",
)
@click.option(
    "--cache-bits",
    type=click.IntRange(1),
    multiple=True,
    help="Of a number in the cache; given twice or more, one for each spec.",
)
@TUNED
@JSON
def plan(
    specs: tuple[Path, ...],
    targets: tuple[str, ...],
    pipeline: str | None,
    batch: int,
    context: int | None,
    cache_bits: tuple[int, ...],
    tuned: Path | None,
    as_json: bool,
) -> None:
    """Say what builds would cost, before they are built: memory, FLOPs, and time at best.

    \b
      archsmith plan model.yaml --target h200
      archsmith plan model.yaml other.yaml --target h200 --batch 64
      archsmith plan model.yaml --target a100 --target b200

    One spec on one target is shown kernel by kernel; several are compared with the first.
    """
    from ..forecasts import forecasts
    from ..tables import show

    found = forecasts(
        specs,
        targets,
        pipeline=pipeline,
        batch=batch,
        context=context,
        cache_bits=cache_bits,
        tuned=tuned,
    )
    for note in dict.fromkeys(note for forecast in found for note in forecast.stale):
        click.echo(f"note: {note}", err=True)
    if as_json:
        click.echo(json.dumps([forecast.json() for forecast in found], indent=2))
    else:
        show(found)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--weights", type=click.Path(path_type=Path), help="A Hugging Face checkpoint.")
@click.option("--tokens", help="Token ids, separated by commas.")
@click.option("--prompt", help="Text, by the tokenizer.json of the checkpoint or of the package.")
@click.option("--max-new", default=32, show_default=True, help="How many tokens to generate.")
@click.option("--temperature", default=0.0, show_default=True, help="0 takes the likeliest token.")
@click.option("--top-p", default=1.0, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of fresh weights, and of sampling.")
@click.option("--dtype", help="Another than the spec's: float32, bfloat16, ...")
@click.option("--device", default="cpu", show_default=True)
def run(folder: Path, tokens: str | None, prompt: str | None, **options: Any) -> None:
    """Generate tokens or text with a built package; without --weights, they are random.

    \b
      archsmith run my_model --weights checkpoint --tokens 1,2,3
      archsmith run my_model --weights checkpoint --prompt "Once upon a time"

    Text comes piece by piece, and ends where the checkpoint's configuration says.
    """
    if (tokens is None) == (prompt is None):
        raise click.UsageError("give either --tokens or --prompt")
    from ..run import generate, speak

    if tokens is not None:
        click.echo(",".join(map(str, generate(folder, tokens, **options))))
    if prompt is not None:
        for piece in speak(folder, prompt, **options):
            click.echo(piece, nl=False)
        click.echo()
