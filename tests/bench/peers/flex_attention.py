"""PyTorch's FlexAttention, compiled: Triton kernels made by Inductor.

Forward was run on a CPU by torch 2.13, which has no gradients of it there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

NAME = "torch FlexAttention"
MODULES = ("torch",)
INSTALL = "pip install torch"
GRADIENTS = ("attend",)


def attend(scale: float, value_in_key: bool, **rules: Any) -> tuple[Any, Any]:
    if any(rules.values()):
        raise ValueError("it is asked without window, cap and sinks")
    compiled = torch.compile(flex_attention, dynamic=False)

    def arranged(q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Any:
        tokens, slots, first = q.shape[1], k.shape[1], k.shape[1] - q.shape[1]

        def seen(batch: Tensor, head: Tensor, token: Tensor, slot: Tensor) -> Tensor:
            return slot <= token + first

        return q, k, v, create_block_mask(seen, None, None, tokens, slots, device=q.device)

    def run(q: Tensor, k: Tensor, v: Tensor, mask: Any) -> Tensor:
        grouped = q.shape[2] != k.shape[2]
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        out = compiled(q, k, v, block_mask=mask, scale=scale, enable_gqa=grouped)
        return out.transpose(1, 2)

    return arranged, run
