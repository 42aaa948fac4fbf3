"""Attention to a latent in Gluon, compiled ahead of time; and where it is refused."""

from __future__ import annotations

import pytest
from archsmith.compiler.emit.aot import calls
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.attention import Attend
from archsmith.compiler.schedule.candidates import use
from kernels.checks import VALUES, registry
from kernels.recorded import Ahead

NAME = "gluon.latent_attention"
OP = Attend(192**-0.5, value_in_key=True)
DEEPSEEK = (128, 576, 512)  # heads, and columns of keys and values: DeepSeek-V2's and V3's
SMALL = (64, 192, 128)
CALLS = (Sizes(128, 1, 4096), Sizes(1, 1, 32768), Sizes(4, 2, 1024))


def types(
    heads: int, key: int, value: int, dtype: str = "bfloat16", groups: int = 1
) -> tuple[TensorType, ...]:
    texts = (
        f"{dtype}[B, T, {heads}, {key}]",
        f"{dtype}[B, S, {groups}, {key}]",
        f"{dtype}[B, S, {groups}, {value}]",
        "int64[B, T]",
    )
    return tuple(map(TensorType.parse, texts))


@pytest.mark.parametrize("oldest", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_no_score_is_computed_twice(ahead: Ahead, dtype: str, oldest: bool) -> None:
    """Of 64 by 64 slots, a warp group issues 36 products of 32 slots and 16 columns, and four of
    256 columns and 16 slots: half of each, where Triton's own layout issues 72 and four."""
    kernel, chip = ahead.registry.kernels[NAME](), ahead.registry.targets["h200"]
    uses = [use(kernel, OP, types(*sizes, dtype), chip) for sizes in (DEEPSEEK, SMALL)]
    names = (kernel.stem(), *kernel.parts)
    files = {
        f"kernels/{stem}.py": kernel_file(kernel, uses, chip, VALUES, part=stem) for stem in names
    }
    files["kernels/decode_attention.py"] = "decode_attention = None\n"
    files["kernels/__init__.py"] = ""
    files["kernels/operators.py"] = operators_file(
        ahead.registry.templates["operators.py"], files, 2
    )
    asked = [call for found in uses for call in calls(kernel, found, CALLS, ("decode",))]
    found = ahead(f"gluon-{dtype}", files, asked, chip, oldest)
    splits = [kernel for kernel in found if kernel.kernel == "split"]
    assert {kernel.options["KEY"] for kernel in splits} == {512, 128}
    for made in found:
        assert made.spills == 0, made
        assert made.shared <= chip.shared_memory, made
    for made in splits:
        columns = made.options["KEY"] + made.options["REST"]
        products = columns // 16 + made.options["BLOCK_N"] // 16
        assert made.instructions == {"wgmma.mma_async": products}, made


@pytest.mark.parametrize(
    ("target", "op", "operands", "reason"),
    [
        ("a100", OP, types(*DEEPSEEK), "no wgmma"),
        ("b200", OP, types(*DEEPSEEK), "no wgmma"),
        ("h200", Attend(0.1), types(*DEEPSEEK), "no part of the keys"),
        ("h200", OP, types(16, 576, 512), "16 query heads"),
        ("h200", OP, types(128, 576, 512, groups=4), "32 query heads"),
        ("h200", OP, types(*DEEPSEEK, "float32"), "float32"),
        ("h200", OP, types(128, 544, 512), "powers of two"),
        ("h200", OP, types(128, 512, 512), "powers of two"),
        ("h200", OP, types(128, 576, 448), "powers of two"),
    ],
)
def test_what_is_refused(
    target: str, op: Attend, operands: tuple[TensorType, ...], reason: str
) -> None:
    kernel, chip = registry().kernels[NAME](), registry().targets[target]
    assert reason in (kernel.refuses(op, operands, chip) or "")
