"""Contexts that are not all rows, one behind the other, and what is said of them where they are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..ir.dims import BATCH, CONTEXT
from ..ir.graph import Node
from ..schedule.code import name


@dataclass(frozen=True)
class Contexts:
    """How the caches of a graph are kept, by the nodes that write and read them."""

    windows: Mapping[str, str] = field(default_factory=dict)
    """Which cache an op reads that keeps a window of rows only."""
    pages: frozenset[str] = frozenset()
    """The ops that are handed contexts as they lie in pages, or hand them out."""
    page: int | None = None
    """How many slots these pages have."""

    def given(self, node: Node, phases: tuple[str, ...]) -> dict[str, Any]:
        """What the kernel of a node is told.

        Of pages: that they are kept, or their table and how many slots of a row are read. Of a
        window of rows: the positions that these have.
        """
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
