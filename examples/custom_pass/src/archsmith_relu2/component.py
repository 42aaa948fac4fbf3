"""An MLP with a squared ReLU and no gate."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from archsmith.compiler.components.component import Component
from archsmith.compiler.spec.fields import Size
from pydantic import Field

if TYPE_CHECKING:
    from archsmith.compiler.components.building.site import Site
    from archsmith.compiler.ir.graph import Value


class Relu2Mlp(Component):
    """y = W_down max(W_up x, 0) ** 2 (arXiv:2109.08668, section 4)."""

    kind: ClassVar[str] = "relu2_mlp"

    width: Size = Field(description="the width of the hidden layer")

    tensors = {"up": "mlp.up_proj.weight", "down": "mlp.down_proj.weight"}

    def build(self, site: Site, x: Value) -> Value:
        hidden = site.linear(x, "up", site.dim("width"))
        rectified = site.op.activation(hidden, function="relu")
        return site.linear(site.op.mul(rectified, rectified), "down", site.hidden)
