"""An activation times what it gates: a line of PyTorch, or a Triton kernel that reads both once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.elementwise import Activation, GatedActivation
from ...compiler.schedule.code import Code, as_code, call, name
from ...compiler.schedule.kernel import Config, Kernel, Use
from ...compiler.schedule.tiles import power_of_2, unable, width
from .activations import activations
from .elementwise import TorchActivation

BLOCK = 1024  # elements of a program: eight for each of the threads of four warps


class TorchGatedActivation(Kernel):
    name = "torch.gated_activation"
    implements = "gated_activation"

    def cost(
        self, op: GatedActivation, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """Two steps: what the first writes, the second reads."""
        between = Cost(bytes=2 * sizes.bytes(operands[0]), launches=2)
        return op.cost(sizes, *operands) + between

    def call(self, op: GatedActivation, gate: Code, up: Code, *, phases: tuple[str, ...]) -> Code:
        return in_pytorch(op.function, gate) * up


class TritonGatedActivation(Kernel):
    name = "triton.gated_activation"
    implements = "gated_activation"
    functions = ("gated_activation",)
    triton = True

    def refuses(
        self, op: GatedActivation, operands: tuple[TensorType, ...], target: Target
    ) -> str | None:
        if op.function not in activations("gate"):
            return f"it has no text for {op.function}"
        return unable(operands, target)

    def configs(
        self, op: GatedActivation, operands: tuple[TensorType, ...], rows: int, target: Target
    ) -> Iterator[Config]:
        whole = power_of_2(width(operands[0]))
        for block in (BLOCK, 2 * BLOCK, BLOCK // 2, 4 * BLOCK):
            for warps in (4, 8, 2):
                yield Config({"BLOCK": min(block, whole)}, num_warps=warps)

    def key(self, op: GatedActivation, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        return (width(operands[0]),)

    def tables(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return {
            "TILES": {width(use.operands[0]): use.tiles[-1][1].options() for use in uses},
            "FUNCTIONS": tuple(sorted({use.op.function for use in uses})),
        }

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        used = sorted({use.op.function for use in uses})
        tiles = {width(use.operands[0]): use.tiles[-1][1].constants["BLOCK"] for use in uses}
        return {
            "functions": [(as_code(f), in_pytorch(f), activations("gate")[f]) for f in used],
            "masked": any(size % block for size, block in tiles.items()),
        }

    def call(self, op: GatedActivation, gate: Code, up: Code, *, phases: tuple[str, ...]) -> Code:
        return call("gated_activation", gate, up, op.function)


def in_pytorch(function: str, gate: Code | None = None) -> Code:
    """An activation of the gate as a line of PyTorch."""
    return TorchActivation().call(Activation(function), gate or name("gate"), phases=())
