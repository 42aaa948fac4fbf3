"""What the rewriter does for passes: names that never clash."""

from __future__ import annotations

from dataclasses import dataclass

from archsmith.compiler.ir.parse import parse_model
from archsmith.compiler.ir.text import print_block
from archsmith.compiler.ir.weights import Transpose
from archsmith.compiler.plugins import Registry
from archsmith.compiler.rewrite.passes import Pass
from archsmith.compiler.rewrite.pipeline import Runner
from archsmith.compiler.rewrite.rewriter import Rewriter

TEXT = """\
block b
  param %a = ref("a", (8~5, 4~3)) : float32[8~5, 4~3]
  graph train, prefill, decode
    %x = input : float32[B, T, 4~3]
    %positions = input : int64[B, T]
    %both = einsum(%x, %a, equation="btd,fd->btf") : float32[B, T, 8~5]
    return %both
"""


@dataclass(frozen=True)
class TurnTheWeight(Pass):
    """A parameter is called what a value is called already."""

    name = "turn-the-weight"

    def run(self, rewriter: Rewriter) -> None:
        (weight,) = rewriter.graph.params
        if weight.name == "a":
            x = rewriter.graph.inputs[0]
            turned = rewriter.param("both", Transpose(rewriter.program(weight), (1, 0)))
            product = rewriter.op.einsum(x, turned, equation="btd,df->btf", name="both")
            rewriter.replace(rewriter.graph.outputs[0], product)


def test_a_parameter_never_takes_the_name_of_a_value(registry: Registry) -> None:
    after, outcome = Runner(registry.ops).apply(parse_model(TEXT, registry.ops), TurnTheWeight())
    assert outcome.applications == 1
    (block,) = after.blocks.values()
    (param,) = block.params
    (out,) = block.graph("train").outputs
    assert param != out.name
    text = print_block(block)
    assert print_block(next(iter(parse_model(text, registry.ops).blocks.values()))) == text
