"""Attention of many queries and its gradients compiled ahead of time, as published models train."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from archsmith.compiler.emit.aot import calls
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.attention import Attend
from archsmith.compiler.schedule.candidates import use
from kernels.recorded import Ahead
from kernels.test_ahead import INSTRUCTIONS

CALL = Sizes(1, 4096, 4096)
VALUES = {"module": SimpleNamespace(windowed=True, page=None)}
# Heads, of how many groups, the widths of keys and values; then a window, a cap, and whether there
# are sinks.
MODELS: dict[str, tuple[int, int, int, int, int | None, float | None, bool]] = {
    "deepseek-v2-lite": (16, 16, 192, 128, None, None, False),
    "llama-3-8b": (32, 8, 128, 128, None, None, False),
    "gemma-2-9b": (16, 8, 256, 256, 4096, 50.0, False),
    "gpt-oss-20b": (64, 8, 64, 64, 128, None, True),
}


@pytest.mark.parametrize("oldest", [False, True])
@pytest.mark.parametrize("target", INSTRUCTIONS)
@pytest.mark.parametrize("model", MODELS)
def test_nothing_is_spilled(ahead: Ahead, model: str, target: str, oldest: bool) -> None:
    heads, kv_heads, key, value, window, softcap, sinks = MODELS[model]
    op = Attend(key**-0.5, None if window is None else Dim.of(window), softcap)
    texts = [f"T, {heads}, {key}", f"S, {kv_heads}, {key}", f"S, {kv_heads}, {value}"]
    types = [TensorType.parse(f"bfloat16[B, {text}]") for text in texts]
    types.append(TensorType.parse("int64[B, T]"))
    types += [TensorType.parse(f"bfloat16[{heads}]")] if sinks else []
    registry, chip = ahead.registry, ahead.registry.targets[target]
    reference = registry.kernels["torch.attend"]()
    forward = registry.kernels["triton.prefill_attention"]()
    gradient = registry.kernels["triton.prefill_attention_gradients"]()
    files = {
        "kernels/__init__.py": "",
        "kernels/attend.py": kernel_file(reference, (), chip, VALUES),
    }
    asked = []
    for kernel in (gradient, forward):
        assert kernel.refuses(op, tuple(types), chip) is None
        found = use(kernel, op, tuple(types), chip)
        own = gradient if kernel is forward else None
        for part in (kernel.stem(), *kernel.parts):
            text = kernel_file(kernel, [found], chip, VALUES, own, part=part)
            files[f"kernels/{part}.py"] = text
        asked += calls(kernel, found, [CALL], ("train",))
    files["kernels/operators.py"] = operators_file(registry.templates["operators.py"], files, 2)

    compiled = ahead(f"trained-{model}", files, asked, chip, oldest)
    assert {k.kernel for k in compiled} == {"_prefill", "query_gradients", "slot_gradients"}
    wide, narrow = INSTRUCTIONS[target]
    for k in compiled:
        assert k.spills == 0, k
        assert k.shared <= chip.shared_memory, k
        own_rows = k.options["BLOCK_N" if k.kernel == "slot_gradients" else "BLOCK_M"]
        assert set(k.instructions) == {wide if own_rows >= 64 else narrow}, k
