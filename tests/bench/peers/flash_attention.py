"""Attention by FlashAttention-3 (https://github.com/Dao-AILab/flash-attention, folder hopper).

Not run: it is CUDA. The calls are those of its source at commit 0251105a. Of a latent, it is given
the query in two parts: `qv` meets the values, of up to 512 columns, and q the rest of the keys.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .paged import counts

NAME = "FlashAttention-3"
MODULE = "flash_attn_interface"
INSTALL = "https://github.com/Dao-AILab/flash-attention, its folder hopper built from source"
GRADIENTS = ("attend",)


def attend(scale: float, value_in_key: bool, **rules: Any) -> tuple[Any, Any]:
    from flash_attn_interface import flash_attn_func, flash_attn_with_kvcache

    if any(rules.values()):
        raise ValueError("it is asked without window, cap and sinks")

    def arranged(q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Any:
        if q.shape[1] == k.shape[1]:
            return q, k, v
        if not value_in_key:
            return q, k, v, counts(positions), None
        value = v.shape[-1]
        whole, rest = q.split((value, q.shape[-1] - value), -1)
        return rest, k[..., value:], v, counts(positions), whole

    def run(q: Tensor, k: Tensor, v: Tensor, *cached: Any) -> Tensor:
        if not cached:
            found = flash_attn_func(q, k, v, softmax_scale=scale, causal=True)
            return found[0] if isinstance(found, tuple) else found
        lengths, whole = cached
        return flash_attn_with_kvcache(
            q, k, v, qv=whole, cache_seqlens=lengths, softmax_scale=scale, causal=True
        )

    return arranged, run
