"""Let attention read a context in float8 as it lies in the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..compiler.ir.dims import ONE
from ..compiler.ir.graph import Value
from ..compiler.ops.attention import Attend
from ..compiler.ops.quantized_rows import DequantizeRows
from ..compiler.ops.shape import Split, Unflatten
from ..compiler.rewrite.pattern import RewritePass


@dataclass(frozen=True)
class FuseDequantize(RewritePass):
    """No wide copy of the context at each step, where attention can read its numbers itself.

    %row = dequantize_rows(%numbers, %scale, %rest)
    %latent, %k_rope = split(%row)
    %out = attend(%q, unflatten(%row), unflatten(%latent), %positions)
    ->
    %out = quantized_attend(%q, %numbers, %scale, %rest, %positions)
    """

    name = "fuse-dequantize"
    phases = ("decode",)

    def pattern(self, op: Any, q: Any, numbers: Any, scale: Any, rest: Any, positions: Any) -> Any:
        row = op.dequantize_rows(numbers, scale, rest, bind="dequantize")
        keys = op.unflatten(row, bind="keys")
        values = op.unflatten(op.split(row, bind="split")[0], bind="values")
        return op.attend(q, keys, values, positions, bind="attend")

    def check(
        self, *, keys: Unflatten, values: Unflatten, split: Split, attend: Attend, numbers: Value,
        **_: Any,
    ) -> str | None:  # fmt: skip
        if keys.sizes[0] != ONE or values.sizes[0] != ONE or len(keys.sizes) > 2:
            return "its heads have keys of their own, and not one that all share"
        if split.axis != -1 or split.sizes[0] != numbers.type.row[-1]:
            return "its values are not what is in float8"
        if attend.window is not None or attend.softcap is not None:
            return "it has a window, or a cap of its scores"
        return None

    def rewrite(
        self, op: Any, *, q: Value, numbers: Value, scale: Value, rest: Value, positions: Value,
        attend: Attend, dequantize: DequantizeRows, **_: Any,
    ) -> Any:  # fmt: skip
        return op.quantized_attend(
            *(q, numbers, scale, rest, positions), scale=attend.scale, block=dequantize.block
        )
