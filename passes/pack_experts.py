"""Hold a layer's experts in one tensor instead of one tensor each."""

from __future__ import annotations

from dataclasses import dataclass

from ..compiler.ir.stacked import stacked
from ..compiler.ir.weights import Each
from ..compiler.rewrite.passes import Pass
from ..compiler.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class PackExperts(Pass):
    """A family of tensors becomes one, which a kernel can index and a device reads in one place.

    %gate = each(ref("experts.{expert}.gate"), expert, 64)
    ->
    %gate = stack(ref("experts.{expert}.gate"), expert, 64)
    """

    name = "pack-experts"

    def run(self, rewriter: Rewriter) -> None:
        for value in rewriter.graph.params:
            program = rewriter.program(value)
            if isinstance(program, Each):
                rewriter.replace(value, rewriter.param(value.name, stacked(program)))
