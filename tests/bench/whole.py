"""Decode steps of whole models beside `transformers`: the package of an example and its model."""

from __future__ import annotations

import argparse
import json
import shlex
import tempfile
from collections.abc import Sequence
from datetime import date
from pathlib import Path

from archsmith.compiler.driver import Compiler
from archsmith.compiler.emit.measure import ROUNDS
from archsmith.compiler.emit.measure_decoding import MeasureDecoding
from archsmith.compiler.packaged import packaged
from archsmith.compiler.show import Steps
from archsmith.compiler.throughput import BATCHES, CONTEXT, Throughput, throughput
from archsmith.compiler.throughput_views import show

EXAMPLES = Path(__file__).parents[2] / "examples"
PEER = "transformers"


def add_parser(kinds: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    asked = kinds.add_parser("model", help="decode steps of whole models, beside transformers")
    asked.add_argument("--model", nargs="+", default=["deepseek-v2-lite"], help="examples, by name")
    asked.add_argument("--batch", type=int, nargs="+", default=list(BATCHES))
    asked.add_argument("--context", type=int, default=CONTEXT)
    asked.add_argument("--no-compile", action="store_true")
    asked.add_argument("--target", default="h200")
    asked.add_argument("--rounds", type=int, default=ROUNDS, help="of which the median is taken")
    asked.add_argument("--json", type=Path, help="a file for all numbers, exact")


def main(
    given: argparse.Namespace, arguments: Sequence[str], measure: MeasureDecoding | None = None
) -> None:
    command = shlex.join(["python", "-m", "tests.bench", *arguments])
    found = [timed(name, given, measure) for name in given.model]
    for each in found:
        show(each, markdown=True)
    print(f"\n{date.today()};\n\n    {command}")
    if given.json:
        data = {"date": str(date.today()), "command": command, "models": [f.json() for f in found]}
        given.json.write_text(f"{json.dumps(data, indent=1)}\n", encoding="utf-8")


def timed(name: str, given: argparse.Namespace, measure: MeasureDecoding | None) -> Throughput:
    """Build an example, and time it beside the model that its configuration makes."""
    compiler = Compiler.installed(given.target, numeric=False)
    spec = compiler.load(EXAMPLES / f"{name}.yaml")
    with tempfile.TemporaryDirectory() as folder, Steps() as steps:
        place = Path(folder, "package")
        compiler.package(spec, place, *compiler.passes(spec.pipeline), prove=False)
        package = packaged(place)
        return throughput(
            package,
            given.batch,
            given.context,
            measure or package.measure_decoding,
            steps,
            compile=not given.no_compile,
            rounds=given.rounds,
            peers={PEER: Path(__file__).with_name("eager_transformers.py").read_text("utf-8")},
            configuration=(EXAMPLES / "configs" / f"{name}.json").read_text("utf-8"),
        )
