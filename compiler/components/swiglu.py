"""The gated feed-forward network."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from ..spec.fields import Positive, Size
from .component import Activation, Component

if TYPE_CHECKING:
    from ..ir.graph import Value
    from .building.site import Site


class Swiglu(Component):
    """y = W_down (activation(W_gate x) * W_up x) (Shazeer 2020)."""

    kind: ClassVar[str] = "swiglu"

    width: Size = Field(description="the width of the hidden layer")
    activation: Activation = Field("silu", description="the nonlinearity of the gate")
    bias: bool = Field(False, description="whether the three projections have a bias")
    clamp: Positive | None = Field(
        None, description="the bound of the gate from above and of the other factor on both sides"
    )

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
        if self.clamp is not None:
            gate = site.op.clamp(gate, high=self.clamp)
            up = site.op.clamp(up, low=-self.clamp, high=self.clamp)
        hidden = site.op.mul(site.op.activation(gate, function=self.activation), up)
        return site.linear(hidden, "down", site.hidden, bias=self.bias)
