"""Attention to a latent by DeepSeek's FlashMLA (https://github.com/deepseek-ai/FlashMLA).

Not run: it is CUDA. Written from its source at commit 9241ae3, whose schedule is made by the first
call, and read again as vLLM 0.32 holds it (`vllm.third_party.flashmla`): the call is the same.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .paged import counts, paged

NAME = "FlashMLA"
MODULE = "flash_mla"
INSTALL = "https://github.com/deepseek-ai/FlashMLA, built from its source"
GRADIENTS = ()


def attend(scale: float, value_in_key: bool, **rules: Any) -> tuple[Any, Any]:
    from flash_mla import flash_mla_with_kvcache, get_mla_metadata

    if not value_in_key or any(rules.values()):
        raise ValueError("it attends to one latent, with no window, cap or sinks")
    schedule, _ = get_mla_metadata()

    def arranged(q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Any:
        return q, *paged(k), counts(positions), v.shape[-1]

    def run(q: Tensor, pages: Tensor, table: Tensor, lengths: Tensor, value: int) -> Tensor:
        out, _ = flash_mla_with_kvcache(
            q, pages, table, lengths, value, schedule, softmax_scale=scale, causal=True
        )
        return out

    return arranged, run
