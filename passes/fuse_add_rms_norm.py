"""Fuse a residual add into the RMS norm that reads it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..compiler.ir.graph import Value
from ..compiler.ops.norm import RmsNorm
from ..compiler.rewrite.pattern import RewritePass


@dataclass(frozen=True)
class FuseAddRmsNorm(RewritePass):
    """One trip through memory for a residual add and its norm, instead of two.

    %h = add(%x, %residual)
    %y = rms_norm(%h, %weight)   ->   %h, %y = add_rms_norm(%x, %residual, %weight)
    """

    name = "fuse-add-rms-norm"

    def pattern(self, op: Any, x: Any, residual: Any, weight: Any) -> Any:
        h = op.add(x, residual)
        return h, op.rms_norm(h, weight, bind="norm")

    def check(self, *, x: Value, residual: Value, **_: Any) -> str | None:
        if x.type != residual.type:
            return f"residual {residual.type} broadcasts to {x.type}"
        return None

    def rewrite(self, op: Any, *, x: Value, residual: Value, weight: Value, norm: RmsNorm) -> Any:
        return op.add_rms_norm(x, residual, weight, **norm.attributes())
