"""Fuse an activation into the product with what it gates."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..compiler.ir.graph import Value
from ..compiler.ops.elementwise import Activation
from ..compiler.rewrite.pattern import RewritePass


@dataclass(frozen=True)
class FuseGatedActivation(RewritePass):
    """One trip through memory for an activation and the product that it gates, instead of two.

    %a = activation(%gate)
    %y = mul(%a, %up)         ->   %y = gated_activation(%gate, %up)
    """

    name = "fuse-gated-activation"

    def pattern(self, op: Any, gate: Any, up: Any) -> Any:
        return op.mul(op.activation(gate, bind="activation"), up)

    def check(self, *, gate: Value, up: Value, **_: Any) -> str | None:
        if gate.type != up.type:
            return f"the gate is {gate.type}, %{up.name} {up.type}"
        return None

    def rewrite(self, op: Any, *, gate: Value, up: Value, activation: Activation) -> Any:
        return op.gated_activation(gate, up, **activation.attributes())
