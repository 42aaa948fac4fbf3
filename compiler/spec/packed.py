"""How a checkpoint packs in one tensor what is a weight of each expert."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Packed:
    """Where a checkpoint has a weight of all experts: in `tensor` [experts, ...].

    transposed  an expert's matrix is [in, out], not [out, in]
    every       each expert's rows take turns with those of so many weights in all, itself included
    first       the first row that is this weight's
    """

    tensor: str
    transposed: bool = False
    every: int = 1
    first: int = 0
