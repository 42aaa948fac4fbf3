"""The stages in order: load, build, rewrite, schedule, emit; nothing else happens here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .components.assemble import assemble
from .ir.model import Model
from .machine.target import Target
from .plugins import Registry
from .spec import load as spec_load
from .spec.schema import Spec

SEED = 0


@dataclass
class Compiler:
    """The stages with what they need: the plugins, a target, and who watches."""

    registry: Registry
    target: Target
    watch: Callable[[str], None] = field(default=lambda stage: None)
    """Called with what is done next."""

    def load(self, path: Path) -> Spec:
        """Read a spec; raises `SpecError` with all its mistakes."""
        return spec_load.load(path, self.registry.components, self.registry.families)

    def build(self, spec: Spec) -> Model:
        """The graph of a spec, before any pass."""
        family = self.registry.families.get(spec.checkpoint or "")
        return assemble(
            spec,
            self.registry.ops,
            family.tensors if family else None,
            family.droppable if family else (),
        )
