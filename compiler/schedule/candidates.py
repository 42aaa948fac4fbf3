"""What a kernel may be compiled with for an op, and what it is compiled with."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from types import MappingProxyType

from ..ir.op import Op
from ..ir.types import TensorType
from ..machine.target import Target
from ..machine.tuned import Address, Tiles
from .kernel import Config, Kernel, Use, blamed


def use(
    kernel: Kernel,
    op: Op,
    operands: tuple[TensorType, ...],
    target: Target,
    tuned: Tiles = MappingProxyType({}),
) -> Use:
    """A kernel's tiles for one op: for each number of rows the configuration that was measured to
    be best, where it is one of the kernel's own, or else the first of those."""
    measured = tuned.get(address(kernel, op, operands), {}) if kernel.triton else {}
    tiles: list[tuple[int | None, Config]] = []
    for limit, rows in kernel.rungs():
        found = candidates(kernel, op, operands, rows, target, None if limit in measured else 1)
        if not found:
            continue
        best = next((c for c in found if c.options() == measured.get(limit)), None)
        best = found[0] if best is None else replace(best, measured=True)
        if tiles and tiles[-1][1] == best:
            _, last = tiles.pop()
            best = replace(best, measured=best.measured and last.measured)
        tiles.append((limit, best))
    return Use(op, operands, tuple(tiles))


def candidates(
    kernel: Kernel,
    op: Op,
    operands: tuple[TensorType, ...],
    rows: int,
    target: Target,
    most: int | None = None,
) -> list[Config]:
    """What a kernel may be compiled with for calls of about so many rows, each once, best first."""
    found: dict[tuple[tuple[str, int], ...], Config] = {}
    with blamed(kernel):
        for config in islice(kernel.configs(op, operands, rows, target), most):
            found.setdefault(tuple(sorted(config.options().items())), config)
    return list(found.values())


def address(kernel: Kernel, op: Op, operands: tuple[TensorType, ...]) -> Address:
    """Where a table of measured tiles has those of an op."""
    with blamed(kernel):
        return kernel.name, operands[0].dtype if operands else "", kernel.key(op, operands)
