"""Choices of experts in the order of the experts, as grouped products of PyTorch want them."""

from __future__ import annotations

import torch
from torch import Tensor


def by_expert(index: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of index [N, K]: the choices [N * K] by expert, the expert of each, and where each expert's
    end, int32 [E]. The host learns none of it."""
    chosen, order = index.flatten().sort(stable=True)
    each = torch.arange(experts, device=index.device)
    return order, chosen, torch.searchsorted(chosen, each, right=True, out_int32=True)


def mixed(results: Tensor, order: Tensor, weight: Tensor) -> Tensor:
    """The weighted sum [N, D] of results [N * K, D] in that order, weight [N, K] in the tokens'."""
    back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
    own = results[back].unflatten(0, weight.shape)
    return (own * weight[..., None]).sum(1).to(results.dtype)
