"""Kernels of gradients compiled ahead of time, at the widths of published models."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from archsmith.compiler.emit.aot import Compiled, calls
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.elementwise import ACTIVATIONS, GatedActivation
from archsmith.compiler.ops.norm import AddRmsNorm, RmsNorm
from archsmith.compiler.ops.position import Rope
from archsmith.compiler.schedule.candidates import use
from archsmith.templates.kernels.rms_norm_gradients import THREADS, programs_of
from kernels.checks import VALUES
from kernels.recorded import Ahead

CALL = Sizes(1, 4096, 4096)
REGISTERS = {"cuda": 65536, "hip": 131072}  # of a processor, of 32 bits each
NORM, ADDED = RmsNorm(1e-6), AddRmsNorm(1e-6)
ROW, HEADS, TABLE = "[B, T, {0}]", "[B, T, 16, {0}]", "float32[B, T, {1}]"
# Widths of DeepSeek-V2-Lite's rows, latents and heads, of Llama 3 8B's and of DeepSeek-V3's; what
# no tile divides; and in wider elements.
CASES: Mapping[str, tuple[tuple[Any, tuple[str, ...], tuple[int, ...], str], ...]] = {
    "rms_norm": (
        (NORM, (ROW, "[{0}]"), (512, 1536, 2048, 4096, 7168, 8192), "bfloat16"),
        (NORM, (HEADS, "[{0}]"), (128,), "bfloat16"),
    ),
    "add_rms_norm": ((ADDED, (ROW, ROW, "[{0}]"), (100, 2048, 4096, 7168, 8192), "bfloat16"),),
    "gated_activation": (
        *((GatedActivation(f), (ROW, ROW), (11008,), "bfloat16") for f in ACTIVATIONS),
    ),
    "rope": (*((Rope(i), (HEADS, TABLE, TABLE), (64, 128), "bfloat16") for i in (False, True)),),
}
WIDE = {
    "rms_norm": ((NORM, (ROW, "[{0}]"), (2048, 7168, 8192), "float32"),),
    "add_rms_norm": ((ADDED, (ROW, ROW, "[{0}]"), (2048, 7168, 8192), "float32"),),
}


def compiled(
    ahead: Ahead, job: str, cases: Mapping[str, Any], target: str, oldest: bool
) -> list[Compiled]:
    registry, chip = ahead.registry, ahead.registry.targets[target]
    files, asked = {"kernels/__init__.py": ""}, []
    for name, given in cases.items():
        gradient = registry.kernels[f"triton.{name}_gradients"]()
        kernel = registry.kernels[f"triton.{name}"]()
        # What stands in the other's file has its tiles.
        owner, own = (kernel, gradient) if kernel.stem() == gradient.stem() else (gradient, None)
        uses = []
        for op, shapes, widths, dtype in given:
            for width in widths:
                texts = (shape.format(width, width // 2) for shape in shapes)
                types = (t if not t.startswith("[") else f"{dtype}{t}" for t in texts)
                found = use(owner, op, tuple(map(TensorType.parse, types)), chip)
                assert gradient.refuses(op, found.operands, chip) is None
                asked += calls(gradient, found, [CALL], ("train",))
                uses.append(found)
        files[f"kernels/{owner.stem()}.py"] = kernel_file(owner, uses, chip, VALUES, own)
    files["kernels/operators.py"] = operators_file(registry.templates["operators.py"], files, 4)
    return ahead(job, files, asked, chip, oldest)


@pytest.mark.parametrize("oldest", [False, True])
@pytest.mark.parametrize("target", ["a100", "h200", "b200", "mi300x"])
def test_nothing_is_spilled_and_a_processor_has_room(
    ahead: Ahead, target: str, oldest: bool
) -> None:
    """As many programs of norms as are launched are on a processor at a time."""
    chip = ahead.registry.targets[target]
    assert chip.triton is not None
    found = compiled(ahead, "gradients", CASES, target, oldest)
    found += compiled(ahead, "gradients-float32", WIDE, target, oldest)
    stays = [kernel for kernel in found if "STAGES" in kernel.options]
    assert len(stays) == 7 + 5 + 3 + 3
    for kernel in found:
        assert kernel.spills == 0, kernel
        assert kernel.shared <= chip.shared_memory, kernel
    for kernel in stays:
        programs = programs_of(kernel.options["num_warps"], chip)
        assert programs * kernel.shared <= chip.shared_memory, kernel
        assert kernel.registers <= REGISTERS[chip.triton["backend"]] // THREADS, kernel
