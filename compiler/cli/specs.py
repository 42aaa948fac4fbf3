"""Commands about specs: check, import, schema."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from .options import JSON, OUTPUT, write


@click.command()
@click.argument(
    "specs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="SPEC..."
)
@JSON
def check(specs: tuple[Path, ...], as_json: bool) -> None:
    """Report every mistake of one or more specs at once.

    \b
      archsmith check model.yaml
    """
    from ..plugins import Registry
    from ..views import check_spec

    registry = Registry.installed(("components", "families"))
    results = [check_spec(path, registry) for path in specs]
    if not all(result.valid for result in results):  # a third party's component may be meant
        registry = Registry.installed()
        results = [r if r.valid else check_spec(r.path, registry) for r in results]
    if as_json:
        click.echo(json.dumps([item for r in results for item in r.json()], indent=2))
    for result in results if not as_json else ():
        click.echo(result.text(), err=True)
    sys.exit(0 if all(result.valid for result in results) else 1)


@click.command(name="import")
@click.argument("configuration", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The spec to write.")
@click.option("--name", help="What the spec calls itself; by default after the file or folder.")
@click.option(
    "--mtp", is_flag=True, help="With the layer that predicts one token further, else left out."
)
def import_(configuration: Path, output: Path | None, name: str | None, mtp: bool) -> None:
    """Turn a Hugging Face configuration (a file, or its folder) into a spec.

    \b
      archsmith import config.json -o model.yaml

    Nothing of it is executed. A field that changes the meaning and is not modelled is an error.
    """
    from ..driver import Compiler
    from ..errors import ArchsmithError
    from ..files import not_itself
    from ..spec.fields import NAME

    if name is not None and not NAME.fullmatch(name):
        raise ArchsmithError(f"--name: {name!r} is not a name; letters, digits, - and _ make one")
    not_itself(configuration / "config.json" if configuration.is_dir() else configuration, output)
    text, warnings = Compiler.installed("cpu").read_configuration(configuration, name, mtp=mtp)
    if warnings:
        click.echo(warnings, err=True)
    write(text, output)


@click.command()
@OUTPUT
def schema(output: Path | None) -> None:
    """Print a JSON Schema (draft 7) of specs, for editors.

    \b
      archsmith schema -o archsmith.schema.json
    """
    from ..plugins import Registry
    from ..spec.json_schema import json_schema

    write(json.dumps(json_schema(Registry.installed().components), indent=2) + "\n", output)
