"""Commands that time a package on the machine at hand: tune, bench."""

from __future__ import annotations

import json
from pathlib import Path

import click

from .options import JSON

FOLDER = click.argument("folder", type=click.Path(path_type=Path))
BATCH = click.option(
    "--batch", type=click.IntRange(1), default=1, show_default=True, help="Rows of the calls."
)
CONTEXT = click.option(
    "--context",
    type=click.IntRange(1),
    help="Tokens of each row: new in prefill, cached in decode. [default: 4096, or all that fit]",
)


@click.command()
@FOLDER
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    default="tuned.yaml",
    show_default=True,
    help="The table to write, or to go on with.",
)
@BATCH
@CONTEXT
def tune(folder: Path, output: Path, batch: int, context: int | None) -> None:
    """Measure the tiles of a package's Triton kernels on its GPU, and write the best as a table.

    Those of gradients and of the loss are measured too.

    \b
      archsmith tune my_model -o h200.yaml
      archsmith build model.yaml --target h200 --tuned h200.yaml -o my_model

    If it is cut off, the same command goes on where it was. Needs the GPU of the package's target.
    """
    from ..packaged import packaged
    from ..show import Steps
    from ..tuning import tune as do

    package = packaged(folder)
    demand = package.demand(batch, context)
    with Steps() as steps:
        table, notes = do(package, output, demand, package.measure, steps)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    count = sum(len(entry.tiles) for entry in table.kernels)
    click.echo(f"{output}: {count} tiles, measured on {table.card}", err=True)


@click.command()
@FOLDER
@click.option(
    "--batch",
    "batches",
    type=click.IntRange(1),
    multiple=True,
    help="Rows of the calls; with --model several times. [default: 1; --model: 1, 8, 32, 128]",
)
@click.option(
    "--context",
    type=click.IntRange(1),
    help="Tokens of each row: new in prefill and train, cached in decode. [default: 4096; --model:"
    " 1024; or all that fit]",
)
@click.option("--model", "whole", is_flag=True, help="Time decode steps of the whole model.")
@click.option(
    "--phase",
    "phases",
    type=click.Choice(["prefill", "decode", "train"]),
    multiple=True,
    help="Calls to time; may be given several times. [default: prefill and decode]",
)
@click.option("--compile/--no-compile", default=True, help="Time torch.compile of PyTorch too.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="A picture to draw: .svg or .png."
)
@JSON
def bench(
    folder: Path,
    batches: tuple[int, ...],
    context: int | None,
    whole: bool,
    phases: tuple[str, ...],
    compile: bool,
    output: Path | None,
    as_json: bool,
) -> None:
    """Time each kernel of a package beside PyTorch, and against its floor, or whole decode steps.

    \b
      archsmith bench my_model --phase decode -o roofline.svg
      archsmith bench my_model --phase train --context 8192
      archsmith bench my_model --model --batch 1 --batch 128

    Without a GPU, PyTorch's paths are timed on the CPU.
    """
    if whole:
        if phases or output is not None:
            raise click.UsageError("--model is of decode steps, in a table: no --phase and no -o.")
        _bench_model(folder, batches, context, compile, as_json)
        return
    if len(batches) > 1:
        raise click.UsageError("--batch is given once, but for --model.")

    from ..benchmark import benchmark
    from ..benchmark_views import check_format, draw, show
    from ..packaged import packaged
    from ..schedule.forecast import PHASES
    from ..show import Steps

    if output is not None:
        check_format(output)
    package = packaged(folder)
    demand = package.demand(batches[0] if batches else 1, context)
    with Steps() as steps:
        found = benchmark(
            package,
            demand,
            tuple(dict.fromkeys(phases)) or PHASES,
            package.measure,
            steps,
            compile=compile,
        )
    if output is not None:
        draw(found, output)
    if as_json:
        click.echo(json.dumps(found.json(), indent=2))
    else:
        show(found)


def _bench_model(
    folder: Path, batches: tuple[int, ...], context: int | None, compile: bool, as_json: bool
) -> None:
    from ..packaged import packaged
    from ..show import Steps
    from ..throughput import BATCHES, throughput
    from ..throughput_views import show

    package = packaged(folder)
    rows = tuple(dict.fromkeys(batches)) or BATCHES
    with Steps() as steps:
        found = throughput(package, rows, context, package.measure_decoding, steps, compile=compile)
    if as_json:
        click.echo(json.dumps(found.json(), indent=2))
    else:
        show(found)
