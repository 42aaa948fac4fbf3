"""Attention of many queries in Gluon, compiled ahead of time; and where it is refused."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest
from archsmith.compiler.emit.aot import calls
from archsmith.compiler.emit.kernels import kernel_file, operators_file
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.attention import Attend
from archsmith.compiler.schedule.candidates import use
from kernels.checks import registry
from kernels.disassembled import orders
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
    "gemma-2-27b": [
        (Attend(0.1, softcap=50.0), types(32, 16, 128, 128)),
        (Attend(0.1, Dim.of(4096), 50.0), types(32, 16, 128, 128)),
    ],
}


# A loop in machine code: the products before are waited for; scores and sums of values are asked
# for, each group whole; scores are waited for, and no other wait stands behind their exponentials.
LOOP = re.compile(r"wait 0, ([^w]*), wait 1, (\d+) exp2$")


@pytest.mark.parametrize("oldest", [False, True])
@pytest.mark.parametrize("model", MODELS)
def test_products_go_on_while_weights_are_computed(ahead: Ahead, model: str, oldest: bool) -> None:
    """Nothing is spilled, no product is computed twice, and no wait is where it was not meant."""
    kernel, chip = ahead.registry.kernels[NAME](), ahead.registry.targets["h200"]
    uses = [use(kernel, op, operands, chip) for op, operands in MODELS[model]]
    assert all(kernel.refuses(use.op, use.operands, chip) is None for use in uses)
    files = {
        f"kernels/{stem}.py": kernel_file(kernel, uses, chip, VALUES, part=stem)
        for stem in (kernel.stem(), *kernel.parts)
    }
    files["kernels/prefill_attention.py"] = "prefill_attention = None\n"
    files["kernels/__init__.py"] = ""
    operators = ahead.registry.templates["operators.py"]
    files["kernels/operators.py"] = operators_file(operators, files, 2)
    asked = [call for use in uses for call in calls(kernel, use, [CALL], ("prefill",))]
    found = orders(ahead, f"overlapped-{model}", files, asked, chip, oldest)
    assert len(found) == len(uses)
    for made, order in found:
        assert made.kernel == "attend_tile"
        assert made.spills == 0, made
        assert made.shared <= chip.shared_memory, made
        tile = made.options
        key, rest, block = (tile[name] for name in ("KEY", "REST", "BLOCK_N"))
        scores = [columns // 16 for columns in (key, rest) if columns]
        loops = 3 if "WINDOW" in tile else 2
        sums = block // 16
        # The first scores and the last values stand outside of the loops.
        assert made.instructions == {"wgmma.mma_async": (sum(scores) + sums) * (loops + 1)}, made
        group = ", ".join(f"{count - 1} product, last" for count in (*scores, sums))
        turns = [LOOP.search(part) for part in re.split(r",? ?\d* ?branch(?:, )?", order)]
        # One for each score of a thread, two where scores are capped, and one for each of two rows.
        each = 2 if any(use.op.softcap for use in uses) else 1
        weights = str(block // 2 * each + 2)
        assert [turn.groups() for turn in turns if turn] == [(group, weights)] * loops, order


@pytest.mark.parametrize(
    ("target", "op", "operands", "reason"),
    [
        ("a100", PLAIN, types(8, 8, 128, 128), "no wgmma"),
        ("b200", PLAIN, types(8, 8, 128, 128), "no wgmma"),
        ("h200", PLAIN, types(8, 8, 128, 128, "float32"), "float32"),
        ("h200", PLAIN, types(8, 8, 256, 256), "powers of two"),
        ("h200", PLAIN, types(8, 8, 96, 96), "powers of two"),
        ("h200", PLAIN, types(8, 8, 80, 64), "powers of two"),
        ("h200", PLAIN, types(16, 1, 576, 512), "powers of two"),
        ("h200", Attend(0.0), types(8, 8, 128, 128), "a scale of 0.0"),
    ],
)
def test_what_is_refused(
    target: str, op: Attend, operands: tuple[TensorType, ...], reason: str
) -> None:
    kernel, chip = registry().kernels[NAME](), registry().targets[target]
    assert reason in (kernel.refuses(op, operands, chip) or "")
