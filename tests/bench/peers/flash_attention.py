"""Attention by FlashAttention-3 (https://github.com/Dao-AILab/flash-attention, folder hopper).

Not run: it is CUDA. The calls are those of its source at commit 0251105a. Of a latent, it is given
the query in two parts: `qv` meets the values, of up to 512 columns, and q the rest of the keys.

vLLM's wheel holds it built, for rows of unlike lengths alone, that stand one behind the other: a
launch before the kernel's reads where they begin, in prefill there are no clusters, and there are
no gradients. Written from its interface in 0.26, for torch 2.11, and in 0.32, for torch 2.13, from
the schema of the operator in both, and from commit 617264c of
https://github.com/vllm-project/flash-attention, which takes keys as they lie, [B, S, G, K], where
their lengths are given and no table is.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from .installed import load
from .paged import counts

NAME = "FlashAttention-3"
MODULES = ("flash_attn_interface", "vllm.vllm_flash_attn.flash_attn_interface")
INSTALL = (
    "pip install vllm, of a version for the torch that is installed, whose wheel holds it; "
    "or https://github.com/Dao-AILab/flash-attention, its folder hopper built from source"
)
GRADIENTS = ("attend",)


def attend(scale: float, value_in_key: bool, **rules: Any) -> tuple[Any, Any]:
    if any(rules.values()):
        raise ValueError("it is asked without window, cap and sinks")
    theirs = load(MODULES)

    def arranged(q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Any:
        """The query, keys and values, where each row's queries begin, int32 [B + 1], and of a
        cache the lengths of its rows and `qv`, if there is one."""
        batch, tokens = q.shape[:2]
        begins = torch.arange(batch + 1, dtype=torch.int32, device=q.device) * tokens
        if tokens == k.shape[1]:
            return q, k, v, begins, None, None
        if not value_in_key:
            return q, k, v, begins, counts(positions), None
        value = v.shape[-1]
        whole, rest = q.split((value, q.shape[-1] - value), -1)
        return rest, k[..., value:], v, begins, counts(positions), whole

    return arranged, (_own if hasattr(theirs, "flash_attn_func") else _vllms)(theirs, scale)


def _own(theirs: ModuleType, scale: float) -> Callable[..., Tensor]:
    rules = {"softmax_scale": scale, "causal": True}

    def run(q: Tensor, k: Tensor, v: Tensor, begins: Tensor, lengths: Any, whole: Any) -> Tensor:
        if lengths is not None:
            return theirs.flash_attn_with_kvcache(q, k, v, qv=whole, cache_seqlens=lengths, **rules)
        found = theirs.flash_attn_func(q, k, v, **rules)
        return found[0] if isinstance(found, tuple) else found

    return run


def _vllms(theirs: ModuleType, scale: float) -> Callable[..., Tensor]:
    if not theirs.FA3_AVAILABLE:
        raise ImportError(f"vLLM's holds no FlashAttention-3: {theirs.FA3_UNAVAILABLE_REASON}")
    rules = {"softmax_scale": scale, "causal": True, "fa_version": 3}

    def run(q: Tensor, k: Tensor, v: Tensor, begins: Tensor, lengths: Any, whole: Any) -> Tensor:
        if q.requires_grad:
            raise ValueError("vLLM's has no gradients; its own package has")
        sizes = {"max_seqlen_q": q.shape[1], "cu_seqlens_q": begins, "max_seqlen_k": k.shape[1]}
        if lengths is None:
            k, v = k.flatten(0, 1), v.flatten(0, 1)
            rows = {"cu_seqlens_k": begins}
        else:
            rows = {"seqused_k": lengths, "q_v": None if whole is None else whole.flatten(0, 1)}
        out = theirs.flash_attn_varlen_func(q.flatten(0, 1), k, v, **sizes, **rows, **rules)
        return out.unflatten(0, q.shape[:2])

    return run
