"""Experts and decode attention in Triton by SGLang, with the tiles that it ships for a card.

https://github.com/sgl-project/sglang

Of 0.5.20, the newest that was found for torch 2.13, what is called here was run in Triton's
interpreter at small sizes, with PyTorch in the place of its compiled operators: experts and
attention differ from float64 by 5e-4 in float16. 0.5.14, for torch 2.11, was read: it is called
alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .float8 import in_blocks
from .paged import counts

NAME = "SGLang"
MODULES = ("sglang",)
INSTALL = "pip install sglang, of a version for the torch that is installed"
GRADIENTS = ()
SPLITS = 8  # at most, as its server has them if nothing else is said


def fused_experts(activation: str, **_: Any) -> tuple[Any, Any]:
    theirs = _called(activation)

    def arranged(x: Tensor, index: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor) -> Any:
        index = index.flatten(0, 1).int()
        return x.flatten(0, 1), index, weight.flatten(0, 1), gate_up.flatten(1, 2), down

    return arranged, theirs


def quantized_experts(activation: str, **rules: Any) -> tuple[Any, Any]:
    theirs, arranged = _called(activation), in_blocks(**rules)

    def narrow(*operands: Tensor) -> Any:
        x, index, *others = arranged(*operands)
        return x, index.int(), *others

    def run(*operands: Tensor) -> Tensor:
        *five, of_gate_up, of_down = operands
        scales = {"w1_scale": of_gate_up, "w2_scale": of_down, "block_shape": [128, 128]}
        return theirs(*five, use_fp8_w8a8=True, **scales)

    return narrow, run


def _called(activation: str) -> Callable[..., Tensor]:
    from sglang.srt.layers.moe.fused_moe_triton import fused_experts as theirs
    from sglang.srt.layers.moe.moe_runner import MoeRunnerConfig
    from sglang.srt.layers.moe.topk import StandardTopKOutput
    from sglang.srt.server_args import ServerArgs, set_global_server_args_for_scheduler

    set_global_server_args_for_scheduler(ServerArgs(model_path="none"))

    def run(
        x: Tensor, index: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor, **options: Any
    ) -> Tensor:
        # As all experts are here, it need not look for those that are not.
        config = MoeRunnerConfig(len(down), len(down), inplace=False, activation=activation)
        chosen = StandardTopKOutput(weight, index, weight)  # it does not look at logits
        return theirs(x, gate_up, down, chosen, config, **options)

    return run


def attend(scale: float, value_in_key: bool, **rules: Any) -> tuple[Any, Any]:
    """Of one token a row, whose slots are named one by one. It is told of a latent, of which it
    then reads no values beside the keys."""
    try:
        from sglang.kernels.ops.attention.decode_attention import decode_attention_fwd
    except ImportError:  # up to some version between 0.5.14 and 0.5.20
        from sglang.srt.layers.attention.triton_ops.decode_attention import decode_attention_fwd

    if any(rules.values()):
        raise ValueError("it is asked without window, cap and sinks")

    def arranged(q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Any:
        batch, slots = k.shape[:2]
        ends = torch.cumsum(counts(positions), 0, dtype=torch.int32)
        starts = torch.cat((ends.new_zeros(1), ends))
        slot = torch.arange(batch * slots, device=k.device).view(batch, slots)
        used = slot[torch.arange(slots, device=k.device) <= positions[:, -1:]]
        k = k.contiguous()
        v = k[..., : v.shape[-1]] if value_in_key else v.contiguous()
        splits = torch.full((batch,), SPLITS, dtype=torch.int32, device=k.device)
        return q[:, 0].contiguous(), k.flatten(0, 1), v.flatten(0, 1), starts, used, splits

    def run(
        q: Tensor, k: Tensor, v: Tensor, starts: Tensor, used: Tensor, splits: Tensor
    ) -> Tensor:
        batch, heads = q.shape[:2]
        out = q.new_empty(batch, heads, v.shape[-1])
        part = q.new_empty(batch, heads, SPLITS, v.shape[-1], dtype=torch.float32)
        lse = q.new_empty(batch, heads, SPLITS, dtype=torch.float32)
        decode_attention_fwd(
            *(q, k, v, out, starts, used, part, lse, splits, SPLITS, scale, 1.0, 1.0),
            has_mla=value_in_key,
        )
        return out[:, None]

    return arranged, run
