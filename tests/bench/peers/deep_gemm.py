"""DeepGEMM's grouped product in bfloat16 (https://github.com/deepseek-ai/DeepGEMM), with a sort.

Not run: it is CUDA. Written from its tests at commit 0274ad7; what is called here is there at
54e2261 too. vLLM's wheel holds it built: 2.5.0 in 0.26, for torch 2.11, and 2.8.0 in 0.32, for
torch 2.13, whose calls are the same. It compiles its kernels when they are first called; 2.5.0 does
so with nvcc, which CUDA_HOME or PATH must lead to. Between its products stands PyTorch, compiled
where it is one kernel's work.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .by_expert import by_expert, mixed
from .installed import load

NAME = "DeepGEMM"
MODULES = ("deep_gemm", "vllm.third_party.deep_gemm")
INSTALL = (
    "pip install vllm, of a version for the torch that is installed, whose wheel holds it; "
    "or https://github.com/deepseek-ai/DeepGEMM, built from its source"
)
GRADIENTS = ()

Product = Callable[[Tensor, Any, Tensor], Tensor]  # rows, weights [E, N, K], groups -> rows


def fused_experts(activation: str, **_: Any) -> tuple[Any, Any]:
    theirs = load(MODULES)

    def product(rows: Tensor, weight: Tensor, groups: Tensor) -> Tensor:
        out = rows.new_empty(len(rows), weight.shape[1])
        theirs.m_grouped_bf16_gemm_nt_contiguous(rows, weight, out, groups)
        return out

    align = theirs.get_mk_alignment_for_contiguous_layout()
    return _arranged, layer(activation, product, align, torch.compile(gated, dynamic=False))


def gated(both: Tensor) -> Tensor:
    gate, up = both.chunk(2, -1)
    return F.silu(gate) * up


def layer(
    activation: str, product: Product, align: int, between: Callable[[Tensor], Tensor] = gated
) -> Callable[..., Tensor]:
    """Experts by a product whose groups of rows begin at multiples of `align`."""
    if activation != "silu":
        raise ValueError(f"it has no {activation}")

    def run(x: Tensor, index: Tensor, weight: Tensor, gate_up: Any, down: Any) -> Tensor:
        experts = len(down[0]) if isinstance(down, tuple) else len(down)
        order, place, groups = aligned(index, experts, align)
        rows = x.new_zeros(len(groups), x.shape[1])
        rows[place] = x[order // index.shape[1]]
        hidden = between(product(rows, gate_up, groups))
        return mixed(product(hidden, down, groups)[place], order, weight)

    return run


def aligned(index: Tensor, experts: int, align: int) -> tuple[Tensor, Tensor, Tensor]:
    """The choices by expert, the row of each where every expert begins at a multiple of `align`,
    and the expert of each row, int32, -1 where it has none.

    There are as many rows as the worst of draws needs, so that the host learns nothing.
    """
    order, chosen, ends = by_expert(index, experts)
    counts = ends.diff(prepend=ends.new_zeros(1))
    padded = (counts + align - 1) // align * align
    begins = padded.cumsum(0) - padded
    place = torch.arange(len(order), device=index.device) - (ends - counts)[chosen] + begins[chosen]
    most = len(order) + min(experts, len(order)) * (align - 1)
    groups = torch.full((-(-most // align) * align,), -1, dtype=torch.int32, device=index.device)
    groups[place] = chosen.int()
    return order, place, groups


def _arranged(x: Tensor, index: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor) -> Any:
    return x.flatten(0, 1), index.flatten(0, 1), weight.flatten(0, 1), gate_up.flatten(1, 2), down
