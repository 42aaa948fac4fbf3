"""What a component is: a kind of part that builds its share of a block's graph."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Literal

from ..spec.schema import Part

# A spec is checked without building it: what only builds is not imported for that.
if TYPE_CHECKING:
    from ..ir.graph import Value
    from .building.site import Site

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
"""`gelu_tanh` is the tanh approximation of `gelu`."""


class Component(Part, ABC):
    """A kind of part; its fields are what a spec writes, a subclass with a `kind` is a plugin."""

    tensors: ClassVar[Mapping[str, str]] = {}
    """Role, such as `q_norm`, -> the checkpoint's name for it within a layer."""

    @abstractmethod
    def build(self, site: Site, x: Value) -> Value:
        """Append this part to the block of `site`: x [B, T, D] -> [B, T, D]."""
