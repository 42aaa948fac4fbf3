"""PyTorch's grouped product with a sort, by torch.compile."""

from __future__ import annotations

from .grouped_mm import compiled as fused_experts  # noqa: F401  # by which it is called

NAME = "compiled grouped_mm"
MODULES = ("torch",)
INSTALL = "pip install torch"
GRADIENTS = ("fused_experts",)
