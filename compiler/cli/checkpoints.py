"""Commands about checkpoints: convert, verify."""

from __future__ import annotations

import json
import math
from pathlib import Path

import click

from .options import JSON


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("output", type=click.Path(path_type=Path))
@click.option(
    "--package", type=click.Path(path_type=Path), required=True, help="A folder that `build` made."
)
@click.option("--to-hf", is_flag=True, help="Back to a checkpoint as on Hugging Face.")
@click.option("--dtype", help="Another than the package's: float32, bfloat16, float16, ...")
@click.option(
    "--shard-gb",
    type=click.FloatRange(min=1e-9, max=1e9),
    default=5.0,
    show_default=True,
    help="How large the files are, in GB; a larger tensor has one of its own.",
)
@click.option("--dry-run", is_flag=True, help="Say what it would take, and write nothing.")
@JSON
def convert(
    checkpoint: Path,
    output: Path,
    package: Path,
    to_hf: bool,
    dtype: str | None,
    shard_gb: float,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Lay a checkpoint out as a package holds it, so that loading is only mapping files.

    \b
      archsmith convert deepseek-v2-lite weights --package my_model
      archsmith run my_model --weights weights --tokens 1,2,3
      archsmith convert weights checkpoint --package my_model --to-hf

    If it is cut off, the same command goes on where it was. Needs little more memory than the two
    largest tensors.
    """
    from ..convert.conversion import convert as do
    from ..show import Bytes

    if math.isnan(shard_gb):
        raise click.BadParameter("is no number", param_hint="--shard-gb")
    with Bytes() as progress:
        report = do(
            checkpoint,
            output,
            package=package,
            to_hf=to_hf,
            dtype=dtype,
            shard_bytes=int(shard_gb * 1e9),
            dry_run=dry_run,
            progress=progress,
        )
    if as_json:
        click.echo(json.dumps(report.json(), indent=2))
    else:
        click.echo(report.text(), err=True)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--source",
    type=click.Path(path_type=Path),
    help="What it was converted from, to compare with what was read of it.",
)
def verify(folder: Path, source: Path | None) -> None:
    """Compare every byte of a converted folder with the checksums that were written with it.

    \b
      archsmith verify weights

    Exit code 3, and a line for each file and tensor, where anything is damaged.
    """
    from ..convert.conversion import verify as do
    from ..show import Bytes

    with Bytes() as progress:
        tensors = do(folder, source, progress)
    click.echo(f"{folder}: {tensors:,} tensors are what was written", err=True)
