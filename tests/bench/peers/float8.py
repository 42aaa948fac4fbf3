"""Experts in float8 with a scale for each block, as others than we take them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def in_blocks(block: int, activations: bool, **_: Any) -> Callable[..., tuple[Tensor, ...]]:
    """What makes of our operands: rows [N, D], index and weight [N, K], gate_up [E, 2 F, D], down,
    and the scales of both. Raises `ValueError` for a scheme that is not this."""
    if block != 128 or not activations:
        raise ValueError("it multiplies float8 by float8, in blocks of 128")

    def arranged(
        x: Tensor,
        index: Tensor,
        weight: Tensor,
        gate_up: Tensor,
        down: Tensor,
        gate_up_scale: Tensor,
        down_scale: Tensor,
    ) -> tuple[Tensor, ...]:
        if gate_up.shape[2] % block:
            raise ValueError(
                f"gate and up share a block: {gate_up.shape[2]} rows are not whole ones"
            )
        rows = x.flatten(0, 1), index.flatten(0, 1), weight.flatten(0, 1)
        return *rows, gate_up.flatten(1, 2), down, gate_up_scale.flatten(1, 2), down_scale

    return arranged
