"""The command line: options in, one call of the driver, results out; no logic of its own."""

from __future__ import annotations

import sys
from typing import Any

import click

from . import checkpoints, export, graphs, measuring, packages, plugins, specs


class Commands(click.Group):
    """Runs a command; what is raised on purpose is printed, anything else is a bug to report."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            from ..crash import outcome

            text, code = outcome(error, sys.argv)
            click.echo(text, err=True)
            context.exit(code)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="archsmith")
def main() -> None:
    """Compile a model architecture to a PyTorch package that you own.

    \b
      archsmith import config.json -o model.yaml   a published architecture
      archsmith build model.yaml -o my_model       a PyTorch package of your own
      archsmith run my_model --tokens 1,2,3        and it speaks
    """


for command in (
    specs.check,
    specs.import_,
    packages.build,
    packages.plan,
    graphs.graph,
    graphs.opt,
    graphs.bisect,
    packages.run,
    measuring.bench,
    measuring.tune,
    checkpoints.convert,
    checkpoints.verify,
    export.export,
    plugins.list_,
    plugins.explain,
    plugins.new,
    specs.schema,
):
    main.add_command(command)
