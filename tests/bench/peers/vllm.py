"""Experts and decode attention in Triton by vLLM, with the tiles that it ships for a card.

https://github.com/vllm-project/vllm

Of 0.32, the newest for torch 2.13, what is called here was run in Triton's interpreter at small
sizes, with PyTorch in the place of its compiled operators: experts and attention differ from
float64 by 5e-7 in float32 and by 5e-4 in float16. Of 0.26, for torch 2.11, the attention was read:
it is called alike. It takes its table for these experts and this card, where there is one, by
itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .float8 import in_blocks
from .paged import PAGE, counts, paged

NAME = "vLLM"
MODULES = ("vllm",)
INSTALL = "pip install vllm, of a version for the torch that is installed"
GRADIENTS = ()


def fused_experts(activation: str, **_: Any) -> tuple[Any, Any]:
    from vllm.model_executor.layers.fused_moe import fused_experts as theirs

    if activation != "silu":
        raise ValueError(f"it is called with its default, silu, not {activation}")

    def arranged(x: Tensor, index: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor) -> Any:
        index = index.flatten(0, 1).int()
        return x.flatten(0, 1), index, weight.flatten(0, 1), gate_up.flatten(1, 2), down

    def run(x: Tensor, index: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        return theirs(x, gate_up, down, weight, index)

    return arranged, run


def quantized_experts(activation: str, **rules: Any) -> tuple[Any, Any]:
    """By the `quant_config` that it takes since 0.11."""
    from vllm.model_executor.layers.fused_moe import fused_experts as theirs
    from vllm.model_executor.layers.fused_moe.config import fp8_w8a8_moe_quant_config

    if activation != "silu":
        raise ValueError(f"it is called with its default, silu, not {activation}")
    arranged = in_blocks(**rules)

    def configured(*operands: Tensor) -> Any:
        x, index, weight, gate_up, down, of_gate_up, of_down = arranged(*operands)
        config = fp8_w8a8_moe_quant_config(
            w1_scale=of_gate_up, w2_scale=of_down, block_shape=[128, 128]
        )
        return x, gate_up, down, weight, index.int(), config

    def run(x: Tensor, gate_up: Tensor, down: Tensor, weight: Tensor, index: Tensor, c: Any) -> Any:
        return theirs(x, gate_up, down, weight, index, quant_config=c)

    return configured, run


def attend(scale: float, value_in_key: bool, **rules: Any) -> tuple[Any, Any]:
    """Of one token a row. Its splits are a power of two, one for about 512 slots, two a processor
    at most, as its backend for latents sizes them. It is told of a latent, of which it then
    reads no values beside the keys."""
    from vllm.v1.attention.ops.triton_decode_attention import decode_attention_fwd

    if any(rules.values()):
        raise ValueError("it is asked without window, cap and sinks")

    def arranged(q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Any:
        pages, table = paged(k)
        values = pages[..., : v.shape[-1]] if value_in_key else paged(v)[0]
        most = 2 * torch.cuda.get_device_properties(q.device).multi_processor_count
        splits = min(1 << (max(k.shape[1] // 512, 1) - 1).bit_length(), most)
        return q[:, 0].contiguous(), pages, values, table, counts(positions), splits

    def run(q: Tensor, k: Tensor, v: Tensor, table: Tensor, lengths: Tensor, splits: int) -> Tensor:
        batch, heads = q.shape[:2]
        out = q.new_empty(batch, heads, v.shape[-1])
        lse = q.new_empty(batch, heads)
        between = q.new_empty(batch, heads, splits, v.shape[-1] + 1, dtype=torch.float32)
        decode_attention_fwd(
            *(q, k, v, out, lse, table, lengths, between, splits, scale, PAGE), is_mla=value_in_key
        )
        return out[:, None]

    return arranged, run
