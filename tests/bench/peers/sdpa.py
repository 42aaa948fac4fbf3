"""PyTorch's scaled dot product attention by cuDNN.

Not run by cuDNN, which no CPU has; a test runs it by another backend.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

NAME = "cuDNN, by torch SDPA"
MODULES = ("torch",)
INSTALL = "pip install torch"
GRADIENTS = ("attend",)


def attend(scale: float, value_in_key: bool, **rules: Any) -> tuple[Any, Any]:
    return _attend(SDPBackend.CUDNN_ATTENTION, scale, **rules)


def _attend(backend: SDPBackend, scale: float, **rules: Any) -> tuple[Any, Any]:
    if any(rules.values()):
        raise ValueError("it is asked without window, cap and sinks")

    def run(q: Tensor, k: Tensor, v: Tensor, positions: Tensor) -> Tensor:
        """Where a call has one token, it sees all of the context."""
        causal = q.shape[1] > 1
        if causal and q.shape[1] != k.shape[1]:
            raise ValueError("its mask begins where the context does")
        grouped = q.shape[2] != k.shape[2]
        q, k, v = (x.transpose(1, 2) for x in (q, k, v))
        with sdpa_kernel(backend):
            out = F.scaled_dot_product_attention(
                q, k, v, is_causal=causal, scale=scale, enable_gqa=grouped
            )
        return out.transpose(1, 2)

    return lambda *operands: operands, run
