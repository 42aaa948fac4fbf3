"""What several commands take, and how they write."""

from __future__ import annotations

from pathlib import Path

import click

SPEC = click.argument("spec", type=click.Path(path_type=Path))
OUTPUT = click.option("-o", "--output", type=click.Path(path_type=Path), help="A file to write to.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
TARGET = click.option("--target", default="cpu", show_default=True, help="What to build for.")
PIPELINE = click.option(
    "--pipeline",
    help="A YAML file with a list, or pipelines (O0, O1, O2) and passes, each of which may "
    "have options and a place: 'O2,a{option=1},b before a,c after b'.",
)
VERIFY = click.option(
    "--verify-each",
    type=click.Choice(["numbers", "structure"]),
    default="numbers",
    show_default=True,
    help="How each application of a pass is proved.",
)


TUNED = click.option(
    "--tuned",
    type=click.Path(path_type=Path),
    help="A table of measured tiles, as `tune` writes it.",
)


def write(text: str, output: Path | None) -> None:
    """To a file, or else to stdout."""
    from ..files import write_text

    if output is None:
        click.echo(text, nl=not text.endswith("\n"))
    else:
        write_text(text, output)
