"""Attention to pages compiled ahead of time, at the sizes of published models."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from archsmith.compiler.emit.aot import Compiled, calls, reaching
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.attention import Attend
from archsmith.compiler.ops.quantized_attention import QuantizedAttend
from archsmith.compiler.schedule.candidates import use
from kernels.recorded import Ahead
from kernels.test_attention_ahead import operands
from kernels.test_latent_attention_ahead import in_float8

PAGE = Dim(64, 2)
DECODE, GLUON, FLOAT8, GLUON_FLOAT8 = (
    "triton.decode_attention",
    "gluon.latent_attention",
    "triton.quantized_attention",
    "gluon.quantized_latent_attention",
)
LATENT = Attend(0.07, value_in_key=True, page=PAGE)
IN_FLOAT8 = QuantizedAttend(0.07, page=PAGE)
MODELS: dict[str, tuple[str, Op, tuple[TensorType, ...]]] = {
    "deepseek-v2-lite": (DECODE, LATENT, operands(16, 1, 576, 512)),
    "llama-3-8b": (DECODE, Attend(0.07, page=PAGE), operands(32, 8, 128, 128)),
    "deepseek-v3": (GLUON, LATENT, operands(128, 1, 576, 512)),
    "float8": (FLOAT8, IN_FLOAT8, in_float8(16, 576, 512)),
    "float8-128": (GLUON_FLOAT8, IN_FLOAT8, in_float8(128, 576, 512)),
}


def compiled(ahead: Ahead, model: str, target: str, oldest: bool) -> list[Compiled]:
    """What calls launch that reach all tiles of a kernel that reads pages."""
    name, op, types = MODELS[model]
    chip, kernel = ahead.registry.targets[target], ahead.registry.kernels[name]()
    assert kernel.refuses(op, types, chip) is None
    found = use(kernel, op, types, chip)
    values = {"module": SimpleNamespace(windowed=False, page=PAGE.size)}
    stems = "decode_attention", "quantized_attention"
    files = {f"kernels/{stem}.py": f"{stem} = None\n" for stem in stems}
    files["kernels/__init__.py"] = ""
    for stem in (kernel.stem(), *kernel.parts):
        files[f"kernels/{stem}.py"] = kernel_file(kernel, [found], chip, values, part=stem)
    for stem in ("attend", "quantized_attend"):
        reference = ahead.registry.kernels[f"torch.{stem}"]()
        files[f"kernels/{stem}.py"] = kernel_file(reference, (), chip, values, part=stem)
    files["kernels/quantized_rows.py"] = "def dequantize_rows(): ...\n"
    files["kernels/operators.py"] = operators_file(
        ahead.registry.templates["operators.py"], files, 2
    )
    sizes = [Sizes(128, 1, 4096), *reaching(kernel, found, Sizes(1, 1, 4096))]
    asked = calls(kernel, found, sizes, ("decode",))
    return ahead(f"paged-{model}", files, asked, chip, oldest)


@pytest.mark.parametrize("oldest", [False, True], ids=["newest", "oldest"])
@pytest.mark.parametrize(
    ("model", "target"),
    [
        *(("deepseek-v2-lite", target) for target in ("a100", "h200", "b200", "mi300x")),
        *(("llama-3-8b", target) for target in ("a100", "h200", "b200", "mi300x")),
        ("deepseek-v3", "h200"),
        ("float8", "h200"),
        ("float8-128", "h200"),
    ],
)
def test_a_block_lies_in_one_page(ahead: Ahead, model: str, target: str, oldest: bool) -> None:
    found = compiled(ahead, model, target, oldest)
    splits = [kernel for kernel in found if "PAGE" in kernel.options]
    assert splits
    for kernel in found:
        assert kernel.spills == 0, kernel
        assert kernel.shared <= ahead.registry.targets[target].shared_memory, kernel
    for kernel in splits:
        assert kernel.options["PAGE"] % kernel.options["BLOCK_N"] == 0, kernel
        assert kernel.instructions, kernel
