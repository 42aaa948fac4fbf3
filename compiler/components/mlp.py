"""The feed-forward network without a gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from ..spec.fields import Size
from .component import Component

if TYPE_CHECKING:
    from ..ir.graph import Value
    from .building.site import Site


class Mlp(Component):
    """y = W_down activation(W_up x) (Vaswani et al. 2017)."""

    kind: ClassVar[str] = "mlp"

    width: Size = Field(description="the width of the hidden layer")
    activation: Literal["silu", "gelu", "gelu_tanh", "relu", "relu_squared"] = Field(
        description="the nonlinearity"
    )
    bias: bool = Field(False, description="whether the two projections have a bias")

    tensors = {
        "up": "mlp.up_proj.weight",
        "down": "mlp.down_proj.weight",
        "up_bias": "mlp.up_proj.bias",
        "down_bias": "mlp.down_proj.bias",
    }

    def build(self, site: Site, x: Value) -> Value:
        up = site.linear(x, "up", site.dim("width"), bias=self.bias)
        squared = self.activation == "relu_squared"
        hidden = site.op.activation(up, function="relu" if squared else self.activation)
        if squared:
            hidden = site.op.mul(hidden, hidden)
        return site.linear(hidden, "down", site.hidden, bias=self.bias)
