"""The experts in PyTorch: each runs on the tokens that were routed to it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import BYTES, TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.experts import Experts, ExpertsOp, FusedExperts
from ...compiler.schedule.code import Code, call
from ...compiler.schedule.kernel import Kernel


class TorchExperts(Kernel):
    name = "torch.experts"
    implements = "experts"
    functions = ("experts",)

    def refuses(self, op: Any, operands: tuple[TensorType, ...], target: Target) -> str | None:
        return _refusal(target)

    def cost(self, op: Any, operands: tuple[TensorType, ...], sizes: Sizes, target: Target) -> Cost:
        return _cost(op, operands, sizes)

    def call(self, op: Experts, *operands: Code, phases: tuple[str, ...]) -> Code:
        return expert_call("experts", op, operands)


class TorchFusedExperts(Kernel):
    name = "torch.fused_experts"
    implements = "fused_experts"
    functions = ("fused_experts",)

    def refuses(self, op: Any, operands: tuple[TensorType, ...], target: Target) -> str | None:
        return _refusal(target)

    def cost(self, op: Any, operands: tuple[TensorType, ...], sizes: Sizes, target: Target) -> Cost:
        return _cost(op, operands, sizes)

    def call(self, op: FusedExperts, *operands: Code, phases: tuple[str, ...]) -> Code:
        return expert_call("fused_experts", op, operands)


def expert_call(function: str, op: ExpertsOp, operands: tuple[Code, ...]) -> Code:
    """The call of a function of experts, with what is not its default."""
    given = {"alpha": op.alpha, "clamp": op.clamp, "up_offset": op.up_offset}
    usual = {field.name: field.default for field in fields(op)}
    rules = {name: value for name, value in given.items() if value != usual[name]}
    names = op.operand_names()[3 + op.matrices :]
    biases = dict(zip(names, operands[3 + op.matrices :], strict=False))
    return call(function, *operands[: 3 + op.matrices], activation=op.activation, **rules, **biases)


def _refusal(target: Target) -> str | None:
    if "traced" in target.features:
        return "how many tokens an expert has is known only as it runs, and the target is traced"
    return None


def _cost(op: Any, operands: tuple[TensorType, ...], sizes: Sizes) -> Cost:
    """What the steps take that PyTorch computes one by one, for each of the ways in `_mix`."""
    x, index, *_ = operands
    experts, width, inner = (axis.size for axis in op.down(operands).row)
    choices, item = sizes.count(index), BYTES[x.dtype]
    stored = 3 * experts * width * inner * item
    # Gathered, projected, activated, gated, projected, weighted and added, each to memory and back.
    between = choices * (item * (3 * width + 8 * inner) + 4 * 4 * width)
    least: Cost = op.cost(sizes, *operands)
    if sizes.tokens > 1:  # each expert on its rows; the choices are sorted and counted first
        return least + Cost(bytes=between, launches=6 + 8 * experts)
    if choices <= experts:  # weights are copied for each choice: written, and read again
        return Cost(least.flops, 3 * choices * stored // experts + between, 10)
    times = experts / index.row[0].size
    return Cost(least.flops * times, stored + between, 8 * experts)  # all experts on all rows
