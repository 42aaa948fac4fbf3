"""DeepGEMM's grouped product in float8, scaled by blocks of 128, with a sort.

Not run: it is CUDA; read as `deep_gemm` was. Rows are made narrow by its own function for tests, of
PyTorch, compiled: as it is, it would take longer than the products.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .deep_gemm import INSTALL, MODULES, gated, layer  # noqa: F401  # as of the other
from .float8 import in_blocks
from .installed import load

NAME = "DeepGEMM float8"
GRADIENTS = ()


def quantized_experts(activation: str, **rules: Any) -> tuple[Any, Any]:
    theirs = load(MODULES)
    cast = torch.compile(theirs.utils.per_token_cast_to_fp8, dynamic=False)

    def product(rows: Tensor, weight: tuple[Tensor, Tensor], groups: Tensor) -> Tensor:
        out = rows.new_empty(len(rows), weight[0].shape[1])
        theirs.m_grouped_fp8_gemm_nt_contiguous(cast(rows, use_ue8m0=False), weight, out, groups)
        return out

    arranged = in_blocks(**rules)

    def paired(*operands: Tensor) -> Any:
        *rows, gate_up, down, of_gate_up, of_down = arranged(*operands)
        return *rows, (gate_up, of_gate_up), (down, of_down)

    align = theirs.get_mk_alignment_for_contiguous_layout()
    return paired, layer(activation, product, align, torch.compile(gated, dynamic=False))
