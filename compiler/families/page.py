"""A configuration imported: the page of YAML that it becomes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ..spec.diagnostics import Diagnostic
from ..spec.source import Source
from ..spec.write import write
from .family import Family, family_of

UNFIT = re.compile(r"[^a-z0-9_]+")
LONGEST_NAME = 64


def page(
    config: Source,
    families: Mapping[str, type[Family]],
    name: str | None = None,
    *,
    mtp: bool = False,
) -> tuple[str, list[Diagnostic]]:
    """Return the spec of a configuration as text, and warnings.

    `name` is the spec's, the `model_type` without it; with `mtp`, the spec has the layer that
    predicts one token further. Raises SpecError with all mistakes.
    """
    family = family_of(config, families)
    tree, warnings = family.read(config, name, mtp=mtp)
    return write(tree, f"Imported from a {family.name} configuration."), warnings


def name_of(path: Path) -> str | None:
    """Return a spec's name for a configuration file, or its folder; None where neither has one."""
    path = path.absolute()
    stem = path.parent.name if path.name == "config.json" else path.name.removesuffix(".json")
    name = UNFIT.sub("-", stem.lower()).lstrip("-_0123456789")[:LONGEST_NAME].rstrip("-_")
    return name or None
