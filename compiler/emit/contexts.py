"""What a layer's cache has for the kernels of its ops, beside rows one behind the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..ir.dims import BATCH, CONTEXT
from ..ir.graph import Node
from ..schedule.code import name
from ..schedule.kernel import Kernel


@dataclass(frozen=True)
class Contexts:
    """How the caches of a graph are kept, by the nodes that write and read them."""

    windows: Mapping[str, str] = field(default_factory=dict)
    """Which cache an op reads that keeps a window of rows only."""
    pages: frozenset[str] = frozenset()
    """The ops that are handed contexts as they lie in pages, or hand them out."""
    page: int | None = None
    """How many slots these pages have."""
    counters: Callable[[Node, Kernel], int] = lambda node, kernel: 0
    """How many counters the kernel of a node wants for a row."""

    def given(self, node: Node, kernel: Kernel, phases: tuple[str, ...]) -> dict[str, Any]:
        """What the kernel of a node is told in these phases.

        Of pages: that they are kept, or their table and how many slots of a row are read. Of a
        window of rows: the positions that these have. In decode alone, the counters that it wants.
        """
        counts = phases == ("decode",) and self.counters(node, kernel) > 0
        arrived = {"arrived": name("cache.arrived")} if counts else {}
        return {**self._rows(node, phases), **arrived}

    def _rows(self, node: Node, phases: tuple[str, ...]) -> dict[str, Any]:
        if node.name in self.pages and node.op is not None:
            if node.op.stateful:
                return {"as_pages": True} if node.op.keeps else {}
            return {"table": name("cache.table"), "slots": name("cache.stop")}
        cache = self.windows.get(node.name)
        if cache is None or phases == ("train",):
            return {}
        held = name("cache").method("held", cache)
        return {"held": held.unless(name("cache").is_none()) if "train" in phases else held}

    def shape(self, node: Node, shape: str) -> str:
        """The shape of what a node hands out, which would be `shape` if it were rows."""
        if node.name not in self.pages:
            return shape
        return f"pages, {self.page}{shape.removeprefix(f'{BATCH}, {CONTEXT}')}"
