"""Weights that a checkpoint packs in one tensor for all experts, each picked from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from ...ir.dims import Dim
from ...ir.model import Block
from ...ir.moves import flattened, sliced, swapped
from ...ir.pick import Pick
from ...ir.weights import Each, Program, Ref, Unflatten
from ...spec.packed import Packed


def unpack(block: Block, packed: Mapping[str, Packed]) -> None:
    """Let each family of weights that a block reads be where a checkpoint packs it.

    `packed` says so by the name that each weight would have apart, with `{expert}` in it.
    """
    for name, param in block.params.items():
        match param.program:
            case Each(Ref(tensor)) as family if tensor in packed:
                block.params[name] = replace(param, program=picked(family, packed[tensor]))


def picked(family: Each, packed: Packed) -> Each:
    """The same family of weights, each picked from the tensor that packs them."""
    rows, *rest = family.body.shape
    every = Dim.of(packed.every)
    stored = [every * rows, *rest]
    whole = Ref(packed.tensor, (family.count, *(stored[::-1] if packed.transposed else stored)))
    body: Program = Pick(whole, family.index)
    if packed.transposed:
        body = swapped(body, 0)
    if packed.every > 1:
        apart = swapped(Unflatten(body, 0, (rows, every)), 0)
        body = flattened(sliced(apart, 0, Dim.of(packed.first), Dim.of(1)), 0)
    return replace(family, body=body)
