"""Attend to what keys and values are made of, instead of making them again of the context."""

from __future__ import annotations

from dataclasses import dataclass

from ..compiler.ops.attention import Attend
from ..compiler.rewrite.absorption import absorb
from ..compiler.rewrite.passes import Pass
from ..compiler.rewrite.rewriter import Rewriter
from ..compiler.rewrite.worth import better, compared


@dataclass(frozen=True)
class AbsorbAttention(Pass):
    """Move what multiplies the context to the query and to the result, where that is quicker.

    %k = einsum(%latent, %k_up)
    %v = einsum(%latent, %v_up)
    %out = attend(%q, %k, %v)
    ->
    %q_2 = einsum(%q, %k_up)
    %out_2 = attend(%q_2, %latent, %latent)
    %out = einsum(%out_2, %v_up)

    q . (W c) = (q W) . c, and a sum of W c over slots is W times their sum (arXiv:2405.04434,
    section 2.1.2). Nothing is made again of the context then, but the products of attention are
    wider, mostly: decoding, which waits for memory, gains by it; for prefill the target decides.
    """

    name = "absorb-attention"
    phases = ("prefill", "decode")
    apart = True

    def run(self, rewriter: Rewriter) -> None:
        for name in [node.name for node in rewriter.graph.nodes()]:
            node = rewriter.graph.get(name)
            if node is not None and isinstance(node.op, Attend):
                if reason := _why_not(rewriter, name):
                    rewriter.refuse(node, reason)
                else:
                    absorb(rewriter, node)


def _why_not(rewriter: Rewriter, name: str) -> str:
    """Why an attention is left as it is, or nothing."""
    trial = rewriter.trial()
    if reason := absorb(trial, trial.graph.node(name)):
        return reason
    was, now = compared(rewriter.graph, trial.graph, rewriter.phase, rewriter.target)
    if better(now, was, rewriter.phase):
        return ""
    return f"{rewriter.phase} takes {was} as it is, and {now} absorbed"
