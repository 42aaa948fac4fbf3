"""Norms in Triton compiled ahead of time, with gains, without, and both from one text."""

from __future__ import annotations

import pytest
from archsmith.compiler.emit.aot import Compiled, calls
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.norm import AddRmsNorm, RmsNorm
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.candidates import use
from kernels.checks import VALUES
from kernels.recorded import Ahead

CALL = Sizes(1, 1, 4096)


def compiled(ahead: Ahead, registry: Registry, width: int, target: str) -> list[Compiled]:
    row, gain = (TensorType.parse(f"bfloat16[{axes}{width}]") for axes in ("B, T, ", ""))
    chip = registry.targets[target]
    files, asked = {"kernels/__init__.py": ""}, []
    for name, rows, op in (
        ("triton.rms_norm", (row,), RmsNorm),
        ("triton.add_rms_norm", (row, row), AddRmsNorm),
    ):
        kernel = registry.kernels[name]()
        uses = [
            use(kernel, op(1e-6), rows, chip),
            use(kernel, op(1e-6), (*rows, gain), chip),
            use(kernel, op(1e-6, offset=1.0), (*rows, gain), chip),
        ]
        files[f"kernels/{kernel.stem()}.py"] = kernel_file(kernel, uses, chip, VALUES)
        for found in uses:
            asked += calls(kernel, found, [CALL], ("decode",))
    files["kernels/operators.py"] = operators_file(registry.templates["operators.py"], files, 2)
    return ahead(f"norms-{width}", files, asked, chip)


@pytest.mark.parametrize(
    ("target", "width"),
    [*((target, 1536) for target in ("a100", "h200", "b200", "mi300x")), ("h200", 512)],
)
def test_a_norm_without_a_gain_is_a_kernel_of_its_own(
    ahead: Ahead, registry: Registry, target: str, width: int
) -> None:
    found = compiled(ahead, registry, width, target)
    assert {kernel.file for kernel in found} == {"rms_norm", "add_rms_norm"}
    assert len({kernel.sha256 for kernel in found}) == 6
    for kernel in found:
        assert kernel.spills == 0, kernel
        assert kernel.shared <= registry.targets[target].shared_memory, kernel
