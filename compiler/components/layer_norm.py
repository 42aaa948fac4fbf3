"""Layer normalization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Self

from pydantic import Field, model_validator

from ..spec.fields import Positive, mistake
from .component import Component

if TYPE_CHECKING:
    from ..ir.graph import Value
    from .building.site import Site


class LayerNorm(Component):
    """y = (x - mean(x)) / sqrt(var(x) + eps) * (weight + offset) + bias (Ba et al. 2016)."""

    kind: ClassVar[str] = "layer_norm"
    is_norm: ClassVar[bool] = True

    eps: Positive = Field(description="the constant added to the variance")
    gain: bool = Field(True, description="whether there is a weight that is multiplied with")
    bias: bool = Field(False, description="whether there is a bias, beside a weight")
    offset: Annotated[int, Field(ge=0, le=1)] = Field(
        0, description="what the stored weight is added to"
    )

    @model_validator(mode="after")
    def _without_gain(self) -> Self:
        if not self.gain and (self.bias or self.offset):
            beside = "bias" if self.bias else "offset"
            raise mistake("E0204", f"{beside} stands beside no weight", "leave it out", at=beside)
        return self

    def build(self, site: Site, x: Value) -> Value:
        """Normalize the last axis of x, whatever leads."""
        row = x.type.row[-1:]
        roles = [
            role for role in ("weight", "bias") if self.gain and (role == "weight" or self.bias)
        ]
        weights = [site.weight(role, *row) for role in roles]
        normed: Value = site.op.layer_norm(
            x, *weights, eps=self.eps, offset=float(self.offset), name=site.result
        )
        return normed
