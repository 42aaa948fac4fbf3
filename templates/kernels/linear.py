"""Contractions and lookups as lines of PyTorch."""

from __future__ import annotations

import re

from ...compiler.ops.linear import Einsum
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Kernel


class TorchEinsum(Kernel):
    name = "torch.einsum"
    implements = "einsum"

    def call(self, op: Einsum, *operands: Code, phases: tuple[str, ...]) -> Code:
        if op.projects and re.search(",[a-z]{2}->", op.equation):  # a weight [F, D]
            return call("F.linear", *operands)
        if axes := _summed(op.equation):
            return call("torch.tensordot", *operands, dims=Code(f"({axes[0]}, {axes[1]})"))
        return call("torch.einsum", op.equation, *operands)


class TorchEmbed(Kernel):
    name = "torch.embed"
    implements = "embed"

    def call(self, op: object, tokens: Code, weight: Code, *, phases: tuple[str, ...]) -> Code:
        return call("F.embedding", tokens, weight)


def _summed(equation: str) -> tuple[list[int], list[int]] | None:
    """The axes, counted from the end, of the sum that is one product of two matrices, if it is.

    `torch.einsum` would make a batch of one of it, which bfloat16 on a CPU is slow at (measured:
    29 ms where this takes 0.5), and takes longer to call.
    """
    left, result = equation.split("->")
    x, *others = left.split(",")
    if len(others) != 1:
        return None
    (weight,) = others
    summed = [letter for letter in x if letter in weight]
    free = "".join(letter for letter in x + weight if letter not in summed)
    if not summed or free != result or len(set(x)) < len(x) or len(set(weight)) < len(weight):
        return None
    return [x.index(a) - len(x) for a in summed], [weight.index(a) - len(weight) for a in summed]
