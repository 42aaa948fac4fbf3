"""Our kernels beside peers, from the root of a clone: `python -m tests.bench experts`.

What is not installed is said so in the table, and the run goes on. With --peer, only those of these
files in tests/bench/peers are asked.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

from archsmith.compiler.emit.measure import ROUNDS, Measure, measurer
from archsmith.compiler.plugins import Registry

from . import facts, whole
from .attention import attention
from .cases import EXPERTS, TOKENS, TRAINED, Case, experts, small
from .compare import compare, installed_peers
from .report import as_json, show


def main(arguments: Sequence[str], measure: Measure | None = None) -> None:
    given = _parser().parse_args(arguments)
    if given.what == "facts":
        facts.main(given.write)
        return
    if given.what == "model":
        whole.main(given, arguments)
        return
    registry = Registry.installed()
    if unknown := [name for name in given.without if name not in registry.kernels]:
        sys.exit(f"--without: there is no kernel {', '.join(unknown)}")
    kernels = {name: k for name, k in registry.kernels.items() if name not in given.without}
    registry = replace(registry, kernels=kernels)
    target = registry.targets[given.target]
    found = compare(
        _cases(given, target.memory),
        installed_peers(given.peer),
        registry,
        target,
        measure or measurer(registry.templates),
        rounds=given.rounds,
    )
    command = shlex.join(["python", "-m", "tests.bench", *arguments])
    show(found, command, date.today())
    if given.json:
        text = json.dumps(as_json(found, command, date.today()), indent=1)
        given.json.write_text(f"{text}\n", encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m tests.bench", description=__doc__)
    kinds = parser.add_subparsers(dest="what", required=True)
    of_experts = kinds.add_parser("experts", help="of published models, by tokens of a call")
    of_experts.add_argument("--model", nargs="+", choices=EXPERTS, default=list(EXPERTS))
    of_experts.add_argument("--tokens", type=int, nargs="+", default=list(TOKENS))
    of_experts.add_argument("--float8", action="store_true", help="forward, in 8 bits")
    of_small = kinds.add_parser("small", help="norms, activations, rotations, routers")
    of_attention = kinds.add_parser("attention", help="decoding, prefill and training")
    for kind in (of_small, of_attention):
        kind.add_argument("--case", help="those whose names hold this")
    for kind in (of_experts, of_small, of_attention):
        kind.add_argument("--way", choices=("forward", "backward", "both"), default="both")
        kind.add_argument("--peer", nargs="*", help="stems of tests/bench/peers; all if left out")
        kind.add_argument("--without", nargs="+", default=[], help="kernels that are not taken")
        kind.add_argument("--target", default="h200")
        kind.add_argument("--rounds", type=int, default=ROUNDS, help="of which the median is taken")
        kind.add_argument("--json", type=Path, help="a file for all numbers, exact")
    whole.add_parser(kinds)
    of_facts = kinds.add_parser("facts", help="what our kernels are compiled to, without a GPU")
    of_facts.add_argument("--write", action="store_true", help="into docs/benchmarks.md")
    return parser


def _cases(given: argparse.Namespace, memory: float) -> list[Case]:
    wanted = {"forward": (False,), "backward": (True,), "both": (False, True)}[given.way]
    if given.what != "experts":
        every = small() if given.what == "small" else attention()
        named = [case for case in every if not given.case or given.case in case.name]
        return [case for case in named if bool(case.gradients) in wanted]
    found = []
    if given.float8:
        return [experts(m, given.tokens, float8=True, memory=memory) for m in given.model]
    for model in given.model:
        for backward in wanted:
            tokens = [n for n in given.tokens if n >= TRAINED or not backward]
            # Gradients and what they are compared in take several times the weights.
            room = memory / 8 if backward else memory
            found.append(experts(model, tokens, backward=backward, memory=room))
    return [case for case in found if case.calls]


if __name__ == "__main__":
    main(sys.argv[1:])
