"""Square a ReLU in one step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from archsmith.compiler.ir.graph import Value
from archsmith.compiler.rewrite.pattern import RewritePass


@dataclass(frozen=True)
class FuseReluSquared(RewritePass):
    """One op for a ReLU that is multiplied by itself.

    %r = activation(%x, function="relu")
    %y = mul(%r, %r)                      ->   %y = relu_squared(%x)
    """

    name = "fuse-relu-squared"

    def pattern(self, op: Any, x: Any) -> Any:
        r = op.activation(x, function="relu")
        return op.mul(r, r)

    def rewrite(self, op: Any, *, x: Value) -> Any:
        return op.relu_squared(x)
