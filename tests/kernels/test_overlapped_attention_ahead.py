"""Attention of many queries in Gluon, compiled ahead of time; and where it is refused."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from archsmith.compiler.emit.aot import calls
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.attention import Attend
from archsmith.compiler.schedule.candidates import candidates
from archsmith.compiler.schedule.kernel import Use
from kernels.checks import registry
from kernels.recorded import Ahead

NAME = "gluon.prefill_attention"
VALUES = {"module": SimpleNamespace(windowed=True, page=None)}
CALL = Sizes(1, 4096, 4096)
PLAIN = Attend(0.1)
WINDOW = Dim.of(128)


def types(
    heads: int, groups: int, key: int, value: int, dtype: str = "bfloat16", sinks: bool = False
) -> tuple[TensorType, ...]:
    texts = (
        f"{dtype}[B, T, {heads}, {key}]",
        f"{dtype}[B, S, {groups}, {key}]",
        f"{dtype}[B, S, {groups}, {value}]",
        "int64[B, T]",
        *[f"{dtype}[{heads}]"] * sinks,
    )
    return tuple(map(TensorType.parse, texts))


MODELS = {
    "deepseek": [(PLAIN, types(128, 128, 192, 128))],
    "llama-3-8b": [(PLAIN, types(32, 8, 128, 128))],
    "gpt-oss": [
        (PLAIN, types(64, 8, 64, 64, sinks=True)),
        (Attend(0.1, WINDOW), types(64, 8, 64, 64, sinks=True)),
    ],
    "mistral": [(Attend(0.1, Dim.of(4096)), types(32, 8, 128, 128))],
    "gemma-2-9b": [
        (Attend(0.1, softcap=50.0), types(16, 8, 256, 256)),
        (Attend(0.1, Dim.of(4096), 50.0), types(16, 8, 256, 256)),
    ],
}


@pytest.mark.parametrize("oldest", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_nothing_is_spilled(ahead: Ahead, model: str, oldest: bool) -> None:
    kernel, chip = ahead.registry.kernels[NAME](), ahead.registry.targets["h200"]
    ops = MODELS[model]
    assert all(kernel.refuses(op, operands, chip) is None for op, operands in ops)
    for config in candidates(kernel, *ops[0], 128, chip):
        uses = [Use(*op, ((None, config),)) for op in ops]
        files = {
            f"kernels/{stem}.py": kernel_file(kernel, uses, chip, VALUES, part=stem)
            for stem in (kernel.stem(), *kernel.parts)
        }
        files["kernels/prefill_attention.py"] = "prefill_attention = None\n"
        files["kernels/__init__.py"] = ""
        operators = ahead.registry.templates["operators.py"]
        files["kernels/operators.py"] = operators_file(operators, files, 2)
        asked = [call for use in uses for call in calls(kernel, use, [CALL], ("prefill",))]
        block = config.constants["BLOCK_N"]
        found = ahead(f"overlapped-{model}-{block}", files, asked, chip, oldest)
        assert [made.kernel for made in found] == ["attend_tile"] * len(ops)
        for made in found:
            print(made.options, made.registers, made.spills, made.shared, made.instructions)
