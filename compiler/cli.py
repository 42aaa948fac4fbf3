"""The command line: options in, one call of the driver, results out; no logic of its own."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

SPEC = click.argument("spec", type=click.Path(path_type=Path))
OUTPUT = click.option("-o", "--output", type=click.Path(path_type=Path), help="A file to write to.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")
TARGET = click.option("--target", default="cpu", show_default=True, help="What to build for.")
PIPELINE = click.option(
    "--pipeline", help="A pipeline (O0, O1), passes (a,b{option=1}) or a YAML file with a list."
)


class Commands(click.Group):
    """Runs a command; what is raised on purpose is printed, anything else is a bug to report."""

    def invoke(self, context: click.Context) -> Any:
        try:
            return super().invoke(context)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception as error:
            from .crash import outcome

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


@main.command()
@click.argument(
    "specs", type=click.Path(path_type=Path), nargs=-1, required=True, metavar="SPEC..."
)
@JSON
def check(specs: tuple[Path, ...], as_json: bool) -> None:
    """Report every mistake of one or more specs at once.

    \b
      archsmith check model.yaml
    """
    from .plugins import Registry
    from .views import check_spec

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


@main.command(name="import")
@click.argument("configuration", type=click.Path(path_type=Path))
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The spec to write.")
@click.option("--name", help="What the spec calls itself; by default after the file or folder.")
def import_(configuration: Path, output: Path | None, name: str | None) -> None:
    """Turn a Hugging Face configuration (a file, or its folder) into a spec.

    \b
      archsmith import config.json -o model.yaml

    Nothing of it is executed. A field that changes the meaning and is not modelled is an error.
    """
    from .driver import Compiler
    from .errors import ArchsmithError
    from .files import not_itself
    from .spec.fields import NAME

    if name is not None and not NAME.fullmatch(name):
        raise ArchsmithError(f"--name: {name!r} is not a name; letters, digits, - and _ make one")
    not_itself(configuration / "config.json" if configuration.is_dir() else configuration, output)
    text, warnings = Compiler.installed("cpu").read_configuration(configuration, name)
    if warnings:
        click.echo(warnings, err=True)
    _write(text, output)


@main.command()
@SPEC
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, help="The package's folder."
)
@TARGET
@PIPELINE
@click.option(
    "--verify-each",
    type=click.Choice(["numbers", "structure"]),
    default="numbers",
    show_default=True,
    help="How each application of a pass is proved.",
)
@click.option("--proof/--no-proof", default=True, help="Prove the emitted package, in torch.")
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
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Build a package from a spec, and prove it.

    \b
      archsmith build model.yaml -o my_model

    The folder is the package, its base name the name to import. Files that you edited are not
    overwritten, and all others of the folder stay.
    """
    from .driver import Compiler
    from .show import Progress, summary

    with Progress() as progress:
        compiler = Compiler.installed(target, progress.show, numeric=verify_each == "numbers")
        loaded = compiler.load(spec)
        name, passes = compiler.passes(pipeline or loaded.pipeline)
        report = compiler.package(
            loaded, output, name, passes, prove=proof, force=force, dry_run=dry_run
        )
    if as_json:
        click.echo(json.dumps(report.json(), indent=2))
    else:
        summary(report, dry_run)


@main.command()
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
    from .driver import Compiler
    from .files import not_itself
    from .views import graph as view

    compiler = Compiler.installed("cpu")
    loaded = compiler.load(spec)
    not_itself(spec, output)
    wanted = after is not None or pipeline is not None
    _, passes = compiler.passes(pipeline or loaded.pipeline) if wanted else ("", [])
    model = compiler.build(loaded)
    _write(view(compiler, model, passes, block=block, phase=phase, after=after, form=form), output)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--passes", required=True, help="A pipeline, or passes: a,b{option=1}.")
@OUTPUT
def opt(file: Path, passes: str, output: Path | None) -> None:
    """Run passes on the text form of a graph, each application proved.

    \b
      archsmith graph model.yaml > model.ir
      archsmith opt model.ir --passes fuse-gate-up
    """
    from .driver import Compiler
    from .files import not_itself, read_text
    from .ir.parse import parse_model
    from .ir.text import print_model

    compiler = Compiler.installed("cpu")
    _, chosen = compiler.passes(passes)
    not_itself(file, output)
    model = parse_model(read_text(file), compiler.registry.ops)
    model, outcomes = compiler.rewrite(model, chosen)
    for outcome in outcomes:
        click.echo(f"{outcome.name}: applied {outcome.applications} times", err=True)
        for refusal in outcome.refusals:
            click.echo(f"  left alone {refusal}", err=True)
    _write(print_model(model), output)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--weights", type=click.Path(path_type=Path), help="A Hugging Face checkpoint.")
@click.option("--tokens", required=True, help="Token ids, separated by commas.")
@click.option("--max-new", default=32, show_default=True, help="How many tokens to generate.")
@click.option("--temperature", default=0.0, show_default=True, help="0 takes the likeliest token.")
@click.option("--top-p", default=1.0, show_default=True)
@click.option("--seed", default=0, show_default=True, help="Of fresh weights, and of sampling.")
@click.option("--dtype", help="Another than the spec's: float32, bfloat16, ...")
@click.option("--device", default="cpu", show_default=True)
def run(folder: Path, tokens: str, **options: Any) -> None:
    """Generate tokens with a built package; without --weights, they are random.

    \b
      archsmith run my_model --weights checkpoint --tokens 1,2,3
    """
    from .run import generate

    click.echo(",".join(map(str, generate(folder, tokens, **options))))


@main.command(name="list")
@click.argument("what", required=False)
@JSON
def list_(what: str | None, as_json: bool) -> None:
    """List what is installed: passes, ops, kernels, components, targets, families, pipelines.

    \b
      archsmith list passes
    """
    from .plugins import Registry
    from .views import listing, table

    tables = listing(Registry.installed(), what)
    click.echo(json.dumps(tables, indent=2) if as_json else table(tables))


@main.command()
@click.argument("what")
@click.option("--pass", "pass_name", help="Why a pass leaves parts of the spec WHAT alone.")
def explain(what: str, pass_name: str | None) -> None:
    """Explain a diagnostic's code, a pass, or what a pass does to a spec.

    \b
      archsmith explain E0210
      archsmith explain pass:fuse-gate-up
      archsmith explain model.yaml --pass fuse-gate-up
    """
    from .driver import Compiler
    from .spec.explain import explain as page
    from .views import pass_page, why_not

    if pass_name is None and not what.startswith("pass:"):
        click.echo(page(what))
        return
    compiler = Compiler.installed("cpu")
    if pass_name is None:
        click.echo(pass_page(compiler.registry, what.removeprefix("pass:")))
        return
    loaded = compiler.load(Path(what))
    _, passes = compiler.passes(loaded.pipeline)
    _, chosen = compiler.passes(pass_name)
    names = [p.name for p in passes]
    before = passes[: names.index(pass_name)] if pass_name in names else passes
    click.echo(why_not(compiler, compiler.build(loaded), before, chosen[0]))


@main.command()
@OUTPUT
def schema(output: Path | None) -> None:
    """Print a JSON Schema (draft 7) of specs, for editors.

    \b
      archsmith schema -o archsmith.schema.json
    """
    from .plugins import Registry
    from .spec.json_schema import json_schema

    _write(json.dumps(json_schema(Registry.installed().components), indent=2) + "\n", output)


def _write(text: str, output: Path | None) -> None:
    """To a file, or else to stdout."""
    from .files import write_text

    if output is None:
        click.echo(text, nl=not text.endswith("\n"))
    else:
        write_text(text, output)
