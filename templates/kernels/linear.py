"""Contractions and lookups as lines of PyTorch."""

from __future__ import annotations

from ...compiler.ops.linear import Einsum
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Kernel


class TorchEinsum(Kernel):
    name = "torch.einsum"
    implements = "einsum"

    def call(self, op: Einsum, *operands: Code, phases: tuple[str, ...]) -> Code:
        if _is_linear(op.equation):
            return call("F.linear", *operands)
        return call("torch.einsum", op.equation, *operands)


class TorchEmbed(Kernel):
    name = "torch.embed"
    implements = "embed"

    def call(self, op: object, tokens: Code, weight: Code, *, phases: tuple[str, ...]) -> Code:
        return call("F.embedding", tokens, weight)


def _is_linear(equation: str) -> bool:
    """Whether this is x [..., D] times the transpose of a weight [F, D]."""
    left, result = equation.split("->")
    terms = left.split(",")
    if len(terms) != 2 or len(terms[1]) != 2:
        return False
    x, (row, column) = terms[0], (terms[1][0], terms[1][1])
    return x[-1] == column and result == x[:-1] + row and row not in x
