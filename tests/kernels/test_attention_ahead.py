"""Attention in Triton compiled ahead of time: the heads of published models, for every target."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from archsmith.compiler.emit.aot import Compiled, calls, reaching
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.attention import Attend
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.candidates import use
from kernels.checks import VALUES
from kernels.recorded import Ahead
from kernels.test_ahead import INSTRUCTIONS

LATENT = Attend(0.07, value_in_key=True)
DECODED: dict[str, tuple[Attend, tuple[int, int, int, int]]] = {
    "deepseek-v2-lite": (LATENT, (16, 1, 576, 512)),
    "twenty-heads": (LATENT, (20, 1, 576, 512)),
    "deepseek-v3": (LATENT, (128, 1, 576, 512)),
    "llama-3-8b": (Attend(0.07), (32, 8, 128, 128)),
    "gemma-2-9b": (Attend(0.07, Dim(4096, 5), 50.0), (16, 8, 256, 256)),
    "gpt-oss": (Attend(0.07, Dim(128, 5)), (64, 8, 64, 64)),
}


def operands(
    heads: int, kv_heads: int, key: int, value: int, sinks: bool = False
) -> tuple[TensorType, ...]:
    shapes = f"T, {heads}, {key}", f"S, {kv_heads}, {key}", f"S, {kv_heads}, {value}"
    types = (f"bfloat16[B, {shape}]" for shape in shapes)
    last = [TensorType.parse(f"bfloat16[{heads}]")] * sinks
    return (*map(TensorType.parse, types), TensorType.parse("int64[B, T]"), *last)


def compiled(
    ahead: Ahead,
    registry: Registry,
    name: str,
    job: str,
    op: Attend,
    types: tuple[TensorType, ...],
    target: str,
    oldest: bool = False,
) -> list[Compiled]:
    """What calls launch that reach all tiles of a kernel."""
    chip, kernel = registry.targets[target], registry.kernels[name]()
    assert kernel.refuses(op, types, chip) is None
    found = use(kernel, op, types, chip)
    phase = kernel.phases[-1]
    usual = Sizes(1, 1, 4096) if phase == "decode" else Sizes(1, 4096, 4096)
    values = {"module": SimpleNamespace(windowed=True, page=None)} if op.window else VALUES
    reference = registry.kernels["torch.attend"]()
    files = {
        "kernels/__init__.py": "",
        "kernels/attend.py": kernel_file(reference, (), chip, values),
        **{
            f"kernels/{stem}.py": kernel_file(kernel, [found], chip, values, part=stem)
            for stem in (kernel.stem(), *kernel.parts)
        },
    }
    files["kernels/operators.py"] = operators_file(registry.templates["operators.py"], files, 2)
    asked = calls(kernel, found, list(reaching(kernel, found, usual)), (phase,))
    return ahead(job, files, asked, chip, oldest)


@pytest.mark.parametrize("target", INSTRUCTIONS)
def test_a_latent_that_all_heads_share_is_prefilled(
    ahead: Ahead, registry: Registry, target: str
) -> None:
    types = operands(16, 1, 576, 512)
    name = "triton.prefill_attention"
    found = compiled(ahead, registry, name, "latent-attention", Attend(0.07), types, target)
    assert {kernel.kernel for kernel in found} == {"_prefill"}
    for kernel in found:
        assert kernel.shared <= registry.targets[target].shared_memory, kernel
        assert kernel.spills == 0, kernel
        assert kernel.instructions, kernel


@pytest.mark.parametrize("oldest", [False, True], ids=["newest", "oldest"])
@pytest.mark.parametrize("target", INSTRUCTIONS)
@pytest.mark.parametrize("model", DECODED)
def test_decoding(ahead: Ahead, registry: Registry, model: str, target: str, oldest: bool) -> None:
    """Nothing spills, and tiles of 64 queries are multiplied as the target does best."""
    op, sizes = DECODED[model]
    types = operands(*sizes, sinks=model == "gpt-oss")
    name = "triton.decode_attention"
    found = compiled(ahead, registry, name, f"decode-{model}", op, types, target, oldest)
    wide, narrow = INSTRUCTIONS[target]
    combined = ["combine_splits"] * (target == "mi300x")
    assert {kernel.kernel for kernel in found} == {"split_attention", *combined}
    rows = set()
    for kernel in found:
        assert kernel.shared <= registry.targets[target].shared_memory, kernel
        assert kernel.spills == 0, kernel
        if kernel.kernel == "combine_splits":
            continue
        tile = kernel.options
        rows.add(tile["BLOCK_M"])
        assert set(kernel.instructions) == {wide if tile["BLOCK_M"] >= 64 else narrow}, kernel
    assert min(rows) == 16
    if target == "h200" and op is LATENT:
        assert max(rows) == 64
        # Products of scores have half of them as columns: fewer read the queries for less.
        assert {k.options["BLOCK_N"] for k in found if k.options["BLOCK_M"] == 64} == {64}
