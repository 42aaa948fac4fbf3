"""DeepGEMM's grouped product in float8, scaled by blocks of 128, with a sort.

Not run yet: written from its tests at commit 0274ad7. Weights are quantized before the time that is
taken, rows within it. It computes in fewer bits than we do, so its results may differ by more.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .deep_gemm import INSTALL, MODULE, layer  # noqa: F401  # as of the other

NAME = "DeepGEMM float8"
GRADIENTS = ()
DIFFERS = 0.1


def fused_experts(activation: str, **_: Any) -> tuple[Any, Any]:
    import deep_gemm
    from deep_gemm.utils import per_block_cast_to_fp8, per_token_cast_to_fp8

    def product(rows: Tensor, weight: tuple[Tensor, Tensor], groups: Tensor) -> Tensor:
        out = rows.new_empty(len(rows), weight[0].shape[1])
        narrow = per_token_cast_to_fp8(rows, use_ue8m0=False)
        deep_gemm.m_grouped_fp8_gemm_nt_contiguous(narrow, weight, out, groups)
        return out

    def narrowed(weight: Tensor) -> tuple[Tensor, Tensor]:
        each = [per_block_cast_to_fp8(matrix, use_ue8m0=False) for matrix in weight]
        return torch.stack([w for w, _ in each]), torch.stack([scale for _, scale in each])

    def arranged(x: Tensor, index: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor) -> Any:
        rows = x.flatten(0, 1), index.flatten(0, 1), weight.flatten(0, 1)
        return *rows, narrowed(gate_up.flatten(1, 2)), narrowed(down)

    align = deep_gemm.get_mk_alignment_for_contiguous_layout()
    return arranged, layer(activation, product, align)
