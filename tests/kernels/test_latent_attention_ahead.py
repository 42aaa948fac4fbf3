"""Attention to a latent in Gluon, compiled ahead of time; and where it is refused."""

from __future__ import annotations

import pytest
from archsmith.compiler.emit.aot import Compiled, calls
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.attention import Attend
from archsmith.compiler.ops.quantized_attention import QuantizedAttend
from archsmith.compiler.schedule.candidates import use
from kernels.checks import VALUES, registry
from kernels.recorded import Ahead

NAME = "gluon.latent_attention"
FLOAT8 = "gluon.quantized_latent_attention"
OP = Attend(192**-0.5, value_in_key=True)
DEEPSEEK = (128, 576, 512)  # heads, and columns of keys and values: DeepSeek-V2's and V3's
SMALL = (64, 192, 128)
CALLS = (Sizes(128, 1, 4096), Sizes(1, 1, 32768), Sizes(4, 2, 1024))
QUANTIZED = QuantizedAttend(192**-0.5)


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


def in_float8(
    heads: int, key: int, value: int, dtype: str = "bfloat16", block: int = 128
) -> tuple[TensorType, ...]:
    texts = (
        f"{dtype}[B, T, {heads}, {key}]",
        f"float8_e4m3fn[B, S, {value}]",
        f"float32[B, S, {-(-value // block)}]",
        f"{dtype}[B, S, {key - value}]",
        "int64[B, T]",
    )
    return tuple(map(TensorType.parse, texts))


def compiled(ahead: Ahead, name: str, op: Op, dtype: str, oldest: bool) -> list[Compiled]:
    """What calls of a kernel launch for DeepSeek's sizes and for the smallest."""
    kernel, chip = ahead.registry.kernels[name](), ahead.registry.targets["h200"]
    given = types if name == NAME else in_float8
    uses = [use(kernel, op, given(*sizes, dtype), chip) for sizes in (DEEPSEEK, SMALL)]
    names = (kernel.stem(), *kernel.parts)
    files = {
        f"kernels/{stem}.py": kernel_file(kernel, uses, chip, VALUES, part=stem) for stem in names
    }
    instead = ahead.registry.kernels[kernel.reference]().stem()
    files[f"kernels/{instead}.py"] = f"{instead} = None\n"
    files["kernels/__init__.py"] = ""
    files["kernels/operators.py"] = operators_file(
        ahead.registry.templates["operators.py"], files, 2
    )
    asked = [call for found in uses for call in calls(kernel, found, CALLS, ("decode",))]
    job = f"gluon-{dtype}" if name == NAME else f"gluon-float8-{dtype}"
    return ahead(job, files, asked, chip, oldest)


@pytest.mark.parametrize("oldest", [False, True])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize(("name", "op"), [(NAME, OP), (FLOAT8, QUANTIZED)], ids=["16", "8"])
def test_no_score_is_computed_twice(
    ahead: Ahead, name: str, op: Op, dtype: str, oldest: bool
) -> None:
    """Of 64 by 64 slots, a warp group issues 36 products of 32 slots and 16 columns, and four of
    256 columns and 16 slots: half of each, where Triton's own layout issues 72 and four."""
    found = compiled(ahead, name, op, dtype, oldest)
    splits = [kernel for kernel in found if kernel.kernel != "combine_parts"]
    assert {kernel.options["KEY"] for kernel in splits} == {512, 128}
    for made in found:
        assert made.spills == 0, made
        assert made.shared <= ahead.registry.targets["h200"].shared_memory, made
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
        ("b200", QUANTIZED, in_float8(*DEEPSEEK), "no wgmma"),
        ("h200", QUANTIZED, in_float8(16, 576, 512), "16 query heads"),
        ("h200", QUANTIZED, in_float8(*DEEPSEEK, "float32"), "float32"),
        ("h200", QUANTIZED, in_float8(128, 544, 512), "powers of two"),
        ("h200", QUANTIZED, in_float8(128, 640, 512), "shared memory"),
        ("h200", QuantizedAttend(-1.0), in_float8(*DEEPSEEK), "turns the largest score"),
        ("h200", QuantizedAttend(0.1, Dim(32, 2)), in_float8(*DEEPSEEK, block=32), "of 32 columns"),
        ("h200", QuantizedAttend(0.1, page=Dim(32, 2)), in_float8(*DEEPSEEK), "lies in no page"),
    ],
)
def test_what_is_refused(
    target: str, op: Op, operands: tuple[TensorType, ...], reason: str
) -> None:
    name = NAME if isinstance(op, Attend) else FLOAT8
    kernel, chip = registry().kernels[name](), registry().targets[target]
    assert reason in (kernel.refuses(op, operands, chip) or "")
