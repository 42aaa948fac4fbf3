"""The statements of `weights.py`: which tensor of a checkpoint is held where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..ir.computed import Computed, computed
from ..ir.dims import Which
from ..ir.model import DRAFT_EMBED, DRAFT_NORM, EMBED, FINAL_NORM, HEAD, Param
from ..ir.quantized import InBlocks
from ..schedule.code import string, tuple_of
from ..schedule.plan import Plan
from .layout import statement
from .module import Module
from .tensors import table
from .values import Source
from .write import digest


@dataclass(frozen=True)
class Tensors:
    """The statements of `weights.py` that pair checkpoint tensors with parameters."""

    module: Module
    which: Which
    pairs: Mapping[str, str]
    repeats: tuple[str, ...] = ()

    @property
    def unused(self) -> Source:
        patterns = tuple_of(*_unused(self.module.plan))
        return Source(tuple(statement(f"UNUSED: tuple[str, ...] = {patterns}", 0)))

    @property
    def copies(self) -> Source:
        items = ", ".join(f"{string(k)}: {string(v)}" for k, v in sorted(self.pairs.items()))
        lines = statement(f"COPIES: dict[str, str] = {{{items}}}", 0)
        if self.repeats:
            lines.append(
                "# Those of them that `save` writes, as checkpoints of this family have them."
            )
            lines += statement(f"REPEATED: tuple[str, ...] = {tuple_of(*self.repeats)}", 0)
        return Source(tuple(lines))

    @property
    def written(self) -> Source:
        """What holds the tensors that a checkpoint is written of, copies included."""
        lines = ["    table = _table(model)"]
        if self.repeats:
            lines.append("    table |= {name: table[COPIES[name]] for name in REPEATED}")
        return Source(tuple(lines))

    @property
    def layout(self) -> Source:
        """A digest of where each tensor is held, and of the shapes of what holds it."""
        model = self.module.plan.model
        said = [str(model.kept)]
        for key, block in model.blocks.items():
            said.append(key)
            for own, param in block.params.items():
                said.append(f"{own} {[dim.at(self.which) for dim in param.program.shape]}")
            said += table(block.params, "layer", self.which, 0)
        return Source((f"LAYOUT = {string(digest(chr(10).join(said)))}",))

    @property
    def computed(self) -> Source | None:
        """The import of what computes parameters of tensors, where any is more than moved."""
        steps = {step.function for step in self._steps}
        steps |= {"gains", "only_moved", "read_gains", *["as_stored"] * self.in_float8}
        names = ", ".join(["Made", *sorted(steps)])
        return (
            Source(tuple(statement(f"from .computed import {names}", 0))) if self._steps else None
        )

    @property
    def quantized(self) -> bool:
        """Whether any parameter is computed in blocks of 8 bits."""
        return any(isinstance(step, InBlocks) for step in self._steps)

    @property
    def in_float8(self) -> bool:
        """Whether any is in float8, in which a checkpoint may have it already."""
        steps = [step for step in self._steps if isinstance(step, InBlocks)]
        return any(step.dtype.startswith("float8") for step in steps)

    @property
    def _steps(self) -> list[Computed]:
        """All that computes parameters of tensors."""
        blocks = self.module.plan.model.blocks.values()
        programs = [param.program for block in blocks for param in block.params.values()]
        return [step for program in programs for step in computed(program)]

    @property
    def wide(self) -> bool:
        """Whether a weight is held in a wider dtype than the model's."""
        model = self.module.plan.model
        params = [param for block in model.blocks.values() for param in block.params.values()]
        return any(param.dtype != model.dtype for param in params)

    @property
    def before(self) -> Source:
        return self._of("model", self.module.plan.model.blocks[EMBED].params, 4)

    @property
    def after(self) -> Source:
        if not self.module.drafts:
            return self._of("model", self.module.untied(HEAD), 4)
        untied = self.module.untied
        ends = self._of("model", {**untied(FINAL_NORM), **untied(HEAD)}, 4)
        draft = self._of("model", {**untied(DRAFT_EMBED), **untied(DRAFT_NORM)}, 4)
        return Source((*ends.lines, "    i = len(model.layers)", *draft.lines))

    def layer(self, block: str) -> Source:
        return self._of("layer", self.module.plan.model.blocks[block].params, 4)

    def _of(self, owner: str, params: Mapping[str, Param], indent: int) -> Source:
        return Source(tuple(table(params, owner, self.which, indent)))


def _unused(plan: Plan) -> list[str]:
    """Patterns of the tensors that may be there and are not read."""
    dropped = {t for block in plan.model.blocks.values() for t in block.unused}
    starred = {t.replace("{layer}", "*").replace("{expert}", "*") for t in dropped}
    return sorted({*plan.model.droppable, *starred})
