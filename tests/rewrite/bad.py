"""A pass that goes wrong, and what must hold of it however it does."""

from __future__ import annotations

import signal
import sys
from dataclasses import dataclass
from typing import Any

import pytest
from archsmith.compiler.ir.model import Model
from archsmith.compiler.ir.text import print_model
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.passes import Pass
from archsmith.compiler.rewrite.pipeline import PassFailed, Runner
from archsmith.compiler.rewrite.rewriter import Rewriter

from .text_graphs import graph

TEXT = graph("%h = scale(%x, factor=3.0) : X", "%y = scale(%h, factor=2.0) : X", "return %y, %h")


def fails(model: Model, registry: Registry, made: Any, says: str, **limits: Any) -> PassFailed:
    """Run a pass that fails; the model and the process are as they were."""
    before = print_model(model)
    state = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL), sys.gettrace()
    with pytest.raises(PassFailed, match=says) as failed:
        Runner(registry.ops, **limits).apply(model, made)
    assert print_model(model) == before
    assert failed.value.exit_code == 3
    found = signal.getsignal(signal.SIGALRM), signal.getitimer(signal.ITIMER_REAL), sys.gettrace()
    assert found == state
    return failed.value


@dataclass(frozen=True)
class Bad(Pass):
    """What the passes here have in common: the node that they look at, and a name."""

    name = "bad"

    def run(self, rewriter: Rewriter) -> None:
        node = rewriter.graph.get("y")
        self.at(rewriter, node)

    def at(self, rewriter: Rewriter, node: Any) -> None: ...
