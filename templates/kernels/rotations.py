"""The rotations of positions in PyTorch: once for all layers, so that speed matters little."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...compiler.ir.cost import Cost, Sizes
from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.ops.position import Rotations
from ...compiler.schedule.code import Code, call, name
from ...compiler.schedule.kernel import Kernel, Use

PARAMETERS = {
    "none": (),
    "linear": ("factor",),
    "yarn": ("factor", "original_max_positions", "beta_fast", "beta_slow", "truncate"),
    "llama3": ("factor", "original_max_positions", "low_freq_factor", "high_freq_factor"),
    "longrope": ("factors",),
}
"""What each scaling depends on."""
STEPS = {"none": 0, "linear": 5, "yarn": 8, "llama3": 9, "longrope": 1}


class TorchRotations(Kernel):
    name = "torch.rotations"
    implements = "rotations"
    functions = ("rotations",)

    def cost(
        self, op: Rotations, operands: tuple[TensorType, ...], sizes: Sizes, target: Target
    ) -> Cost:
        """Frequencies, angles, and two functions of them; a scaling takes further steps."""
        return op.cost(sizes, *operands) + Cost(launches=10 + STEPS[op.scaling])

    def values(self, uses: tuple[Use, ...], target: Target) -> Mapping[str, Any]:
        return {"listed": any(use.op.factors for use in uses)}

    def call(self, op: Rotations, positions: Code, *, phases: tuple[str, ...]) -> Code:
        given = op.attributes()
        scaling = {key: given[key] for key in PARAMETERS[op.scaling]}
        if op.scaling != "none":
            scaling = {"kind": op.scaling, **scaling}
        if op.gain != 1.0:
            scaling["gain"] = op.gain
        return call(
            "rotations",
            positions,
            width=int(op.width),
            theta=op.theta,
            **scaling,
            dtype=name("self.dtype"),
        )
