"""`transformers` in PyTorch's eager mode: a peer of whole decode steps, as `bench --model` runs it.

It is read as text and imported where the package is timed, so it imports nothing of ours.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, DynamicCache

TOKENS = 8192  # of all rows, that a prompt is fed by: all at once would hold every score


def model(configuration: Path, device: str, dtype: torch.dtype) -> Any:
    """A model of random weights, with the attention and the experts that it takes by itself."""
    config = AutoConfig.from_pretrained(configuration)
    with torch.device(device):
        return AutoModelForCausalLM.from_config(config, dtype=dtype).eval()


@torch.no_grad()
def decoding(
    model: Any, rows: int, context: int
) -> tuple[Callable[[Tensor], Tensor], Callable[[], None]]:
    """A step, int64 [B] -> int64 [B], behind all but one token of a context; and what sets it back.

    Where a window has passed what a cut would need, the context is left to grow.
    """
    cache = DynamicCache(config=model.config)
    taken = inspect.signature(model.forward).parameters
    options = {"cache" if "cache" in taken else "past_key_values": cache, "logits_to_keep": 1}
    prompt = torch.randint(model.config.vocab_size, (rows, context - 1), device=model.device)
    for part in prompt.split(max(TOKENS // rows, 1), 1):
        model(part, **options)

    @torch.no_grad()
    def step(token: Tensor) -> Tensor:
        return model(token[:, None], **options).logits[:, -1].argmax(-1)

    def back() -> None:
        more = cache.get_seq_length() - prompt.shape[1]
        if more and not any(getattr(layer, "is_sliding", False) for layer in cache.layers):
            cache.crop(-more)

    return step, back
