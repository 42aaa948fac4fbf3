"""ScatterMoE (https://github.com/shawntan/scattermoe, arXiv:2403.08245), by its `parallel_linear`.

At commit 47b5e15 it was run in Triton's interpreter, forward and backward, in float32 at small
sizes: it differs from PyTorch in float64 by 3e-7 at most.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor

NAME = "ScatterMoE"
MODULES = ("scattermoe",)
INSTALL = "pip install --no-deps git+https://github.com/shawntan/scattermoe"
GRADIENTS = ("fused_experts",)


def fused_experts(activation: str, **_: Any) -> tuple[Any, Any]:
    from scattermoe.parallel_experts import flatten_sort_count, parallel_linear

    if activation != "silu":
        raise ValueError(f"it has no {activation}")

    def arranged(x: Tensor, index: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor) -> Any:
        """Gates have x's dtype: they are multiplied with rows of it."""
        gates = weight.flatten(0, 1).to(x.dtype)
        return x.flatten(0, 1), index.flatten(0, 1), gates, gate_up.flatten(1, 2), down

    def run(x: Tensor, index: Tensor, weight: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
        chosen, places, ends = flatten_sort_count(index, num_experts=len(down))
        where = {
            "sorted_expert_idxs": chosen,
            "sorted_scattered_idxs": places,
            "expert_offsets": ends,
        }
        both = parallel_linear(x, gate_up.mT, index.shape[1], **where, grouped_out=True)
        gate, up = both.chunk(2, -1)
        h = F.silu(gate) * up
        return parallel_linear(h, down.mT, 1, **where, grouped_in=True, gates=weight)

    return arranged, run
