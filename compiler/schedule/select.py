"""From a model to a plan: which kernel computes each op, and why the others do not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ArchsmithError
from ..ir.model import Model
from .kernel import Kernel


@dataclass(frozen=True)
class Choice:
    """The kernel of one op of a block, and what the kernels that were not taken say."""

    block: str
    phases: tuple[str, ...]
    node: str
    op: str
    kernel: Kernel
    refusals: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Plan:
    """A model, and the kernel of each of its ops."""

    model: Model
    choices: tuple[Choice, ...]

    def kernel(self, block: str, phases: tuple[str, ...], node: str) -> Kernel:
        return next(
            choice.kernel
            for choice in self.choices
            if (choice.block, choice.phases, choice.node) == (block, phases, node)
        )

    def used(self) -> Iterator[Kernel]:
        """Each kernel once, by name."""
        found = {choice.kernel.name: choice.kernel for choice in self.choices}
        yield from (found[name] for name in sorted(found))


def select(model: Model, kernels: Mapping[str, type[Kernel]], target: Any) -> Plan:
    """Take, for every op, the first kernel by name that does not refuse it.

    Raises `ArchsmithError` where all refuse, with their reasons.
    """
    by_op: dict[str, list[Kernel]] = {}
    for key in sorted(kernels):
        by_op.setdefault(kernels[key].implements, []).append(kernels[key]())
    choices = []
    for block in model.blocks.values():
        for phases, graph in block.graphs.items():
            for node in graph.nodes():
                if node.op is None:
                    continue
                types = tuple(v.type for v in graph.operands(node))
                refusals: list[tuple[str, str]] = []
                for kernel in by_op.get(node.op.name, []):
                    reason = kernel.refuses(node.op, types, target)
                    if reason is None:
                        break
                    refusals.append((kernel.name, reason))
                else:
                    why = "; ".join(f"{name}: {reason}" for name, reason in refusals)
                    raise ArchsmithError(
                        f"no kernel computes {node.op.name} of block {block.name}, %{node.name}"
                        f" ({why or 'none implements it'})"
                    )
                choices.append(
                    Choice(block.name, phases, node.name, node.op.name, kernel, tuple(refusals))
                )
    return Plan(model, tuple(choices))
