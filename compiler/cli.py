"""The command line: options in, one call of the driver, results out; no logic of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from .driver import Compiler, Report
    from .ir.model import Model

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
        from .errors import ArchsmithError

        try:
            return super().invoke(context)
        except ArchsmithError as error:
            text = str(error)
            located = text.startswith(("error", "warning"))
            click.echo(text if located else f"error: {text}", err=True)
            for note in getattr(error, "__notes__", ()):
                click.echo(f"  = note: {note}", err=True)
            context.exit(error.exit_code)
        except OSError as error:
            click.echo(f"error: {error}", err=True)
            context.exit(5)
        except (click.ClickException, click.exceptions.Exit, click.Abort):
            raise
        except Exception:
            from .crash import report

            click.echo(report(sys.argv), err=True)
            context.exit(70)


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
    from .spec.diagnostics import Listing, SpecError, render
    from .spec.load import check as check_source
    from .spec.source import read

    registry = Registry.installed(("components", "families"))
    failed, found = False, []
    for path in specs:
        listing: Listing
        try:
            listing = source = read(path)
            spec, diagnostics = check_source(source, registry.components, registry.families)
        except SpecError as error:
            listing, spec, diagnostics = error.listing, None, error.diagnostics
        failed |= spec is None
        found += [_diagnostic(path, d) for d in diagnostics]
        if not as_json:
            text = render(listing, diagnostics) if diagnostics else f"{path}: no mistakes"
            click.echo(text, err=True)
    if as_json:
        click.echo(json.dumps(found, indent=2))
    sys.exit(1 if failed else 0)


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
    text, warnings = _compiler("cpu").read_configuration(configuration, name)
    for warning in warnings:
        click.echo(f"warning[{warning.code}]: {warning.message}", err=True)
        if warning.help:
            click.echo(f"  = help: {warning.help}", err=True)
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
    from .show import Progress, summary

    with Progress() as progress:
        compiler = _compiler(target, progress.show, numeric=verify_each == "numbers")
        loaded = compiler.load(spec)
        name, passes = _passes(compiler, pipeline or loaded.pipeline)
        report: Report = compiler.package(
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
    from .errors import ArchsmithError
    from .ir.draw import dot, mermaid, svg
    from .ir.text import print_block, print_model

    compiler = _compiler("cpu")
    loaded = compiler.load(spec)
    model = compiler.build(loaded)
    if after is not None or pipeline is not None:
        _, passes = _passes(compiler, pipeline or loaded.pipeline)
        names = [p.name for p in passes]
        if after is not None and after not in names:
            raise ArchsmithError(f"the pipeline runs no {after!r}; it runs {', '.join(names)}")
        last = len(names) if after is None else names.index(after) + 1
        model, _ = compiler.rewrite(model, passes[:last])
    chosen = _block(model, block) if block is not None else None
    if form == "text":
        _write(print_model(model) if chosen is None else print_block(chosen), output)
        return
    if chosen is None:
        raise ArchsmithError(f"a picture is of one block: --block {' or '.join(model.blocks)}")
    draw: Callable[..., str] = {"mermaid": mermaid, "dot": dot, "svg": svg}[form]
    _write(draw(chosen.graph(phase)), output)


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
    from .ir.parse import parse_model
    from .ir.text import print_model

    compiler = _compiler("cpu")
    _, chosen = _passes(compiler, passes)
    model = parse_model(_read(file), compiler.registry.ops)
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
    from .show import listing

    tables = listing(Registry.installed(), what)
    if as_json:
        click.echo(json.dumps(tables, indent=2))
        return
    for kind, rows in tables.items():
        if what is None:
            click.echo(f"{kind}:")
        width = max(map(len, rows), default=0)
        for name, line in rows.items():
            click.echo(f"{'  ' if what is None else ''}{name:{width}}  {line}".rstrip())


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
    from .errors import ArchsmithError
    from .show import explain_pass
    from .spec.explain import explain as page

    if pass_name is None:
        if what.startswith("pass:"):
            click.echo(explain_pass(_compiler("cpu").registry, what.removeprefix("pass:")))
        else:
            click.echo(page(what))
        return
    compiler = _compiler("cpu")
    loaded = compiler.load(Path(what))
    _, passes = _passes(compiler, loaded.pipeline)
    names = [p.name for p in passes]
    before = passes[: names.index(pass_name)] if pass_name in names else passes
    _, (chosen, *others) = _passes(compiler, pass_name)
    if others:
        raise ArchsmithError("--pass takes one pass")
    model, _ = compiler.rewrite(compiler.build(loaded), before)
    _, (outcome,) = compiler.rewrite(model, [chosen])
    click.echo(f"{outcome.name} applies {outcome.applications} times")
    for refusal in outcome.refusals:
        click.echo(f"left alone {refusal}")


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


def _compiler(
    target: str, watch: Callable[[str], None] = lambda doing: None, *, numeric: bool = True
) -> Compiler:
    from .driver import Compiler
    from .errors import ArchsmithError
    from .plugins import Registry
    from .spec.diagnostics import accepted

    registry = Registry.installed()
    if target not in registry.targets:
        help = accepted(target, registry.targets, "targets")
        raise ArchsmithError(f"there is no target {target!r}\n  = help: {help}")
    return Compiler(registry, registry.targets[target], numeric, watch)


def _passes(compiler: Compiler, what: Any) -> tuple[str, list[Any]]:
    """A pipeline's name and its passes, from a name, a list, or a file."""
    from .rewrite.order import DEFAULT, resolve
    from .spec.source import read

    if isinstance(what, str) and what.endswith((".yaml", ".yml")):
        tree = read(Path(what)).tree
        what = [str(item) for item in tree] if isinstance(tree, list) else []
    what = DEFAULT if what is None else what
    passes = resolve(what, compiler.registry.passes, compiler.registry.pipelines)
    return what if isinstance(what, str) else ",".join(what), passes


def _block(model: Model, name: str) -> Any:
    from .errors import ArchsmithError

    if name not in model.blocks:
        raise ArchsmithError(f"there is no block {name!r}; there are {', '.join(model.blocks)}")
    return model.blocks[name]


def _diagnostic(path: Path, found: Any) -> dict[str, Any]:
    span = found.span
    return {
        "file": str(path),
        "code": found.code,
        "severity": found.severity,
        "message": found.message,
        "help": found.help,
        "line": span.line if span else None,
        "column": span.column if span else None,
        "length": span.length if span else None,
    }


def _read(path: Path) -> str:
    from .errors import ArchsmithError

    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ArchsmithError(f"{path} cannot be read: {error}") from None


def _write(text: str, output: Path | None) -> None:
    from .errors import OutputError

    if output is None:
        click.echo(text, nl=not text.endswith("\n"))
        return
    try:
        output.write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error}") from None
