"""Rows projected to heads that are appended: in PyTorch, and in Triton at once where rows are few.

The product's programs store their columns, and the last of a head's goes on with it.
"""

from __future__ import annotations

from typing import Any

from ...compiler.ir.types import TensorType
from ...compiler.machine.target import Target
from ...compiler.schedule.tiles import power_of_2
from .project_latent import TorchProjectLatent, TritonProjectLatent


class TorchProjectHeads(TorchProjectLatent):
    name = "torch.project_heads"
    implements = "project_heads"
    functions = ("project_heads", "add_project_heads")


class TritonProjectHeads(TritonProjectLatent):
    name = "triton.project_heads"
    implements = "project_heads"
    functions = ("project_heads", "add_project_heads")
    reference = "torch.project_heads"
    parts = ("arrivals", "projected_heads")

    def tile(self, op: Any, operands: tuple[TensorType, ...], target: Target) -> dict[str, int]:
        """Constants of what goes on behind the product."""
        _, _, key, value, pairs, _ = self.key(op, operands)
        rest = key - 2 * pairs
        return {
            "PAIRS": power_of_2(pairs),
            "REST": power_of_2(rest) if rest else 0,
            "VALUE": power_of_2(value),
        }

    def counters(self, op: Any, operands: tuple[TensorType, ...], target: Target) -> int:
        """One for each head of queries, keys and values."""
        counted: int = op.heads.size + 2 * op.groups.size
        return counted

    def key(self, op: Any, operands: tuple[TensorType, ...]) -> tuple[int, ...]:
        given = op.given(*operands)
        pairs, width = given["cos"].row[0], given["x"].row[0]
        sizes = op.heads, op.groups, op.key, op.value, pairs, width
        return tuple(axis.size for axis in sizes)
