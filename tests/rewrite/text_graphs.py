"""Small graphs as text, and passes run on them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from archsmith.compiler.ir.model import Model
from archsmith.compiler.ir.parse import parse_model
from archsmith.compiler.ir.text import print_block
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.pattern import RewritePass
from archsmith.compiler.rewrite.pipeline import Outcome, Runner

HEAD = """\
block b
  graph train, prefill, decode
    %x = input : float32[B, T, 8~3]
    %positions = input : int64[B, T]
"""


def graph(*lines: str) -> str:
    """A block of these lines; `X` is the type of its input."""
    body = "".join(f"    {line}\n" for line in lines)
    return HEAD + body.replace(": X", ": float32[B, T, 8~3]")


@dataclass(frozen=True)
class Fuse(RewritePass):
    """What the tests' passes have in common: a name."""

    name = "fuse"

    def rewrite(self, op: Any, *, x: Any, **_: Any) -> Any:
        return op.scale(x, factor=2.0)


def runner(registry: Registry) -> Any:
    """Applies a pass to a text: the lines after it, and what it says."""

    def apply(made: RewritePass, text: str, numeric: bool = False) -> tuple[list[str], Outcome]:
        model: Model = parse_model(text, registry.ops)
        after, outcome = Runner(registry.ops, numeric=numeric).apply(model, made)
        lines = print_block(after.blocks["b"]).splitlines()[4:]
        return [line.strip().split(" : ")[0] for line in lines], outcome

    return apply


def reasons(outcome: Outcome) -> list[str]:
    return [str(refusal) for refusal in outcome.refusals]
