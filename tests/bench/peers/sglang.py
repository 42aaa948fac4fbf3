"""Experts in Triton by SGLang, with the tiles that it ships for a card.

https://github.com/sgl-project/sglang

Not run yet: written from its source at 0.5, whose own benchmark calls it in this way.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from .float8 import in_blocks

NAME = "SGLang"
MODULE = "sglang"
INSTALL = "pip install sglang, of a version for the torch that is installed"
GRADIENTS = ()


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
    config = MoeRunnerConfig(inplace=False, activation=activation)

    def run(
        x: Tensor, index: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor, **options: Any
    ) -> Tensor:
        chosen = StandardTopKOutput(weight, index, weight)  # it does not look at logits
        return theirs(x, gate_up, down, chosen, config, **options)

    return run
