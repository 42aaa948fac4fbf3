"""The loss of a linear layer compiled ahead of time: large vocabularies, for every target."""

from __future__ import annotations

import pytest
from archsmith.compiler.emit.aot import calls
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.loss import LinearCrossEntropy
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.candidates import use
from archsmith.compiler.schedule.kernel import GradientKernel
from kernels.recorded import Ahead
from kernels.test_ahead import INSTRUCTIONS

NAMES = (
    "torch.linear_cross_entropy",
    "triton.linear_cross_entropy_gradients",
    "triton.linear_cross_entropy",
)
# Words, width, dtype and cap: whole tiles and none, the widest rows, and a capped tile.
CASES = {
    "deep": (128256, 16384, "float16", None),
    "capped": (256000, 3584, "bfloat16", 30.0),
    "odd": (151936, 1000, "bfloat16", None),
    "single": (102400, 2048, "float32", 30.0),
}
LATEST = [(case, target, False) for case in CASES for target in INSTRUCTIONS]
OLDEST = [("capped", target, True) for target in INSTRUCTIONS]


@pytest.mark.parametrize(("case", "target", "oldest"), LATEST + OLDEST)
def test_nothing_spills(
    ahead: Ahead, registry: Registry, case: str, target: str, oldest: bool
) -> None:
    words, width, dtype, softcap = CASES[case]
    shapes = f"{dtype}[B, T, {width}]", f"{dtype}[{words}, {width}]", "int64[B, T]"
    op, types = LinearCrossEntropy(softcap=softcap), tuple(map(TensorType.parse, shapes))
    chip, files, asked = registry.targets[target], {"kernels/__init__.py": ""}, []
    reference, gradient, forward = (registry.kernels[name]() for name in NAMES)
    assert isinstance(gradient, GradientKernel)
    for kernel in (reference, gradient, forward):
        found = use(kernel, op, types, chip)
        for stem in (kernel.stem(), *kernel.parts):
            own = gradient if kernel is forward else None
            files[f"kernels/{stem}.py"] = kernel_file(kernel, [found], chip, {}, own, part=stem)
        if kernel.triton:
            asked += calls(kernel, found, [Sizes(1, 4096, 4096)], ("train",))
    files["kernels/operators.py"] = operators_file(registry.templates["operators.py"], files, 4)
    made = ahead(f"loss-{case}", files, asked, chip, oldest)
    assert {kernel.kernel for kernel in made} == {"_score", "_combine", "_logit_gradients"}
    for kernel in made:
        assert kernel.shared <= chip.shared_memory, kernel
        assert kernel.spills == 0, kernel
        if dtype != "float32":  # whose products are exact
            wanted = set() if kernel.kernel == "_combine" else {INSTRUCTIONS[target][0]}
            assert set(kernel.instructions) == wanted, kernel
