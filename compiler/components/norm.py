"""Root mean square normalization."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from ..spec.fields import Positive
from .component import Component

if TYPE_CHECKING:
    from ..ir.graph import Value
    from .building.site import Site


class RmsNorm(Component):
    """y = x / sqrt(mean(x ** 2) + eps) * (weight + offset) (Zhang and Sennrich 2019)."""

    kind: ClassVar[str] = "rms_norm"
    is_norm: ClassVar[bool] = True

    eps: Positive = Field(description="the constant added to the mean square")
    offset: Annotated[int, Field(ge=0, le=1)] = Field(
        0, description="what the stored weight is added to"
    )

    def build(self, site: Site, x: Value) -> Value:
        """Normalize the last axis of x, whatever leads."""
        weight = site.weight("weight", *x.type.row[-1:])
        normed: Value = site.op.rms_norm(
            x, weight, eps=self.eps, offset=float(self.offset), name=site.result
        )
        return normed
