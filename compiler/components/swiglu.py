"""The gated feed-forward network."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ..spec.fields import Amount, Positive, Size
from .component import Activation, Component

if TYPE_CHECKING:
    from ..ir.graph import Value
    from .building.site import Site
    from .moe import Moe


class Swiglu(Component):
    """y = W_down (activation(W_gate x) * (W_up x + up_offset)) (Shazeer 2020)."""

    kind: ClassVar[str] = "swiglu"

    width: Size = Field(description="the width of the hidden layer")
    activation: Activation = Field("silu", description="the nonlinearity of the gate")
    bias: bool = Field(False, description="whether the three projections have a bias")
    clamp: Positive | None = Field(
        None, description="the bound of the gate from above and of the other factor on both sides"
    )
    alpha: Positive = Field(
        1.0, description="the steepness of an activation a, as a(alpha * x) / alpha"
    )
    up_offset: Amount = Field(0.0, description="what is added to the other factor")

    tensors = {
        "gate": "mlp.gate_proj.weight",
        "up": "mlp.up_proj.weight",
        "down": "mlp.down_proj.weight",
        "gate_bias": "mlp.gate_proj.bias",
        "up_bias": "mlp.up_proj.bias",
        "down_bias": "mlp.down_proj.bias",
    }

    def build(self, site: Site, x: Value) -> Value:
        width = site.dim("width")
        gate = site.linear(x, "gate", width, bias=self.bias)
        up = site.linear(x, "up", width, bias=self.bias)
        return site.linear(gated(site, self, gate, up), "down", site.hidden, bias=self.bias)


def gated(site: Site, rules: Swiglu | Moe, gate: Value, up: Value) -> Value:
    """What a gate makes of the other factor, by the fields of a feed-forward: both [B, T, F]."""
    if rules.clamp is not None:
        gate = site.op.clamp(gate, high=rules.clamp)
        up = site.op.clamp(up, low=-rules.clamp, high=rules.clamp)
    if rules.alpha != 1:
        gate = site.op.scale(gate, factor=rules.alpha)
    lifted = site.op.activation(gate, function=rules.activation)
    if rules.alpha != 1:
        lifted = site.op.scale(lifted, factor=1 / rules.alpha)
    hidden: Value = site.op.mul(lifted, up)
    if rules.up_offset:
        more = lifted
        if rules.up_offset != 1:
            more = site.op.scale(lifted, factor=rules.up_offset)
        hidden = site.op.add(hidden, more)
    return hidden
