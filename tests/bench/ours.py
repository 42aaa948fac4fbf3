"""Our side of a comparison: the kernels that a package would have for one op, as emitted."""

from __future__ import annotations

from types import SimpleNamespace

from archsmith.compiler.emit.kernels import kernel_files, launches_file, operators_file
from archsmith.compiler.ir.graph import Graph
from archsmith.compiler.ir.model import PHASES, Block, Model
from archsmith.compiler.ir.types import BYTES
from archsmith.compiler.machine.target import Target
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.plan import Choice, Plan
from archsmith.compiler.schedule.select import select

from .cases import Case

# What the templates of references ask for.
VALUES = {"module": SimpleNamespace(windowed=False, page=None)}


def plan(case: Case, registry: Registry, target: Target) -> Plan:
    """The plan of a model of this one op, chosen as that of any model is."""
    graph, names = Graph(), case.op.operand_names()
    operands = [graph.input(n, t) for n, t in zip(names, case.operands, strict=False)]
    results = case.op.infer(*case.operands)
    count = len(results) if isinstance(results, tuple) else 1
    graph.outputs = graph.add(case.op, *operands, names=tuple(f"y{i}" for i in range(count)))
    block = Block("op")
    block.graphs = {PHASES: graph}
    model = Model("op", case.dtype, {"op": block}, (("op", 1),))
    return select(model, registry.kernels, target)


def choice(plan: Plan, phase: str) -> Choice:
    (found,) = (choice for choice in plan.choices if choice.phase == phase)
    return found


def files(plan: Plan, registry: Registry) -> dict[str, str]:
    """The files in `kernels/` of a package for this plan."""
    found = {"kernels/__init__.py": "", **kernel_files(plan, VALUES)}
    found |= launches_file(registry.templates["launches.py"], plan.target)
    widest = BYTES[plan.model.dtype]
    operators = operators_file(registry.templates["operators.py"], found, widest)
    return {**found, "kernels/operators.py": operators}
