"""Drop what no output of a block needs."""

from __future__ import annotations

from dataclasses import dataclass

from ..compiler.rewrite.passes import Pass
from ..compiler.rewrite.rewriter import Rewriter


@dataclass(frozen=True)
class EliminateDead(Pass):
    """Ops, parameters and caches that nothing reads.

        %a = mul(%x, %x)
        %b = add(%x, %x)   ->   %b = add(%x, %x)
        return %b               return %b

    The checkpoint's tensors of a dropped parameter may still be there when it is loaded.
    """

    name = "eliminate-dead"

    def run(self, rewriter: Rewriter) -> None:
        rewriter.prune()
