"""Attention to a latent by DeepSeek's FlashMLA (https://github.com/deepseek-ai/FlashMLA).

Not run: it is CUDA. Written from its source at commit 9241ae3, whose schedule is made by the first
call. vLLM's wheel holds it built: of 0.26, for torch 2.11, and of 0.32, for torch 2.13, it was read
that the call is the same.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .installed import load
from .paged import counts, paged

NAME = "FlashMLA"
MODULES = ("flash_mla", "vllm.third_party.flashmla.flash_mla_interface")
INSTALL = (
    "pip install vllm, of a version for the torch that is installed, whose wheel holds it; "
    "or https://github.com/deepseek-ai/FlashMLA, built from its source"
)
GRADIENTS = ()


def attend(scale: float, value_in_key: bool, **rules: Any) -> tuple[Any, Any]:
    if not value_in_key or any(rules.values()):
        raise ValueError("it attends to one latent, with no window, cap or sinks")
    theirs = load(MODULES)
    schedule, _ = theirs.get_mla_metadata()

    def arranged(q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Any:
        return q, *paged(k), counts(positions), v.shape[-1]

    def run(q: Tensor, pages: Tensor, table: Tensor, lengths: Tensor, value: int) -> Tensor:
        out, _ = theirs.flash_mla_with_kvcache(
            q, pages, table, lengths, value, schedule, softmax_scale=scale, causal=True
        )
        return out

    return arranged, run
