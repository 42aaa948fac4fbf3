"""The parts of a spec as plain dicts: which of them plays a role, and which are one."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import chain
from typing import Any

from .table import Tree


def counterpart(name: str, kind: str, tree: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the tree's part that plays a table's role: by name, or as the only one of its kind."""
    parts: Mapping[str, Mapping[str, Any]] = tree["parts"]
    alike = [part for part in parts.values() if part["kind"] == kind]
    if name in parts and parts[name]["kind"] == kind:
        return parts[name]
    return alike[0] if len(alike) == 1 else None


def merge(tree: Tree) -> None:
    """Let norms that turned out equal be one part, the first."""
    parts: dict[str, Tree] = tree["parts"]
    first: dict[str, str] = {}
    for name in [name for name, part in parts.items() if part["kind"].endswith("_norm")]:
        same = first.setdefault(repr(parts[name]), name)
        if same != name:
            del parts[name]
            for part in (*parts.values(), *chain(*tree["blocks"].values())):
                part |= {k: same for k, value in part.items() if value == name and k != "kind"}
            for holder, key in ((tree, "final_norm"), (tree.get("mtp", {}), "norm")):
                if holder.get(key) == name:
                    holder[key] = same
