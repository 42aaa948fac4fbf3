"""DeepGEMM's grouped product in float8, scaled by blocks of 128, with a sort.

Not run yet: written from its tests at commit 0274ad7. Rows are made narrow by its own function.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .deep_gemm import INSTALL, MODULE, layer  # noqa: F401  # as of the other
from .float8 import in_blocks

NAME = "DeepGEMM float8"
GRADIENTS = ()


def quantized_experts(activation: str, **rules: Any) -> tuple[Any, Any]:
    import deep_gemm
    from deep_gemm.utils import per_token_cast_to_fp8

    def product(rows: Tensor, weight: tuple[Tensor, Tensor], groups: Tensor) -> Tensor:
        out = rows.new_empty(len(rows), weight[0].shape[1])
        narrow = per_token_cast_to_fp8(rows, use_ue8m0=False)
        deep_gemm.m_grouped_fp8_gemm_nt_contiguous(narrow, weight, out, groups)
        return out

    arranged = in_blocks(**rules)

    def paired(*operands: Tensor) -> Any:
        *rows, gate_up, down, of_gate_up, of_down = arranged(*operands)
        return *rows, (gate_up, of_gate_up), (down, of_down)

    align = deep_gemm.get_mk_alignment_for_contiguous_layout()
    return paired, layer(activation, product, align)
