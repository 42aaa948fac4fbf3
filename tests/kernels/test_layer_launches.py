"""How many launches a decoding step takes in a layer of a published model, counted as it runs."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from archsmith.compiler.driver import Compiler
from archsmith.compiler.emit.package import Facts, emit
from archsmith.compiler.emit.write import write
from archsmith.compiler.ir.cost import Sizes
from kernels.test_launches import Count

EXAMPLES = Path(__file__).parents[2] / "examples"
ROWS = Sizes(8, 1, 64)
IN_FLOAT8 = "O2,quantize-kv after compress-kv,fuse-dequantize after absorb-attention"


def launches(
    package: ModuleType, layer: Any, batch: int, each: dict[str, int], monkeypatch: Any
) -> list[str]:
    """What one layer launches for a token of each row, on tensors without numbers."""
    module = sys.modules[f"{package.__name__}.model"]
    for key, function in list(vars(module).items()):
        if hasattr(function, "registered"):
            monkeypatch.setattr(module, key, function.registered)
    width, dtypes = package.Config.hidden_size, getattr(layer, "dtypes", {})
    with torch.device("meta"):
        slots = torch.full((batch, 1), 7)
        buffers = {
            name: torch.zeros(batch, 65, *row, dtype=dtypes.get(name, torch.bfloat16))
            for name, row in layer.rows.items()
        }
        x = torch.zeros(batch, 1, width, dtype=torch.bfloat16)
        turns = [torch.zeros(batch, 1, pairs(layer), dtype=torch.float32) for _ in range(2)]
        arrived = torch.zeros(1024, dtype=torch.int32)
    cache = sys.modules[f"{package.__name__}.cache"].LayerCache(buffers, slots, 64, False, arrived)
    with torch.no_grad(), Count() as count:
        layer(x, x, slots, *turns, cache)
    return [op for op in count.ops for _ in range(each.get(op.split(".")[-2], 1))]


def pairs(layer: Any) -> int:
    """Pairs of columns that its rope turns."""
    return int(layer.rows["k"][-1]) // 2 if "k" in layer.rows else 32


def counted(
    example: str,
    block: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    pipeline: str = "O2",
    without: str = "",
) -> list[list[str]]:
    """What a layer launches with one row and with eight, built with all these passes but one."""
    compiler = Compiler.installed("h200", numeric=False)
    pipeline, passes = compiler.passes(pipeline)
    passes = [made for made in passes if made.name != without]
    spec = compiler.load(EXAMPLES / f"{example}.yaml")
    model, _ = compiler.rewrite(compiler.build(spec), passes, lambda *_: {"perplexity": 0.0})
    plan = compiler.schedule(model)
    sizes = spec.vocab_size, spec.hidden_size, spec.max_positions
    write(folder, emit(plan, compiler.registry.templates, Facts("0", *sizes, "h200", pipeline, {})))
    taken = [c for c in plan.choices if c.kernel.triton and c.phase == "decode"]
    each = {
        c.kernel.functions[0]: c.kernel.cost(c.op, c.operands, ROWS, plan.target).launches
        for c in taken
    }
    monkeypatch.syspath_prepend(str(folder.parent))
    package = importlib.import_module(folder.name)
    with torch.device("meta"):
        layer = getattr(sys.modules[f"{folder.name}.model"], block)(torch.bfloat16)
    return [launches(package, layer, batch, each, monkeypatch) for batch in (1, 8)]


@pytest.mark.parametrize(
    ("example", "block", "pipeline", "most"),
    [
        ("deepseek-v2-lite", "Sparse", "O2", 10),
        ("deepseek-v2-lite", "Sparse", IN_FLOAT8, 10),
        ("qwen3-30b-a3b", "Sparse", "O2", 9),
        ("llama-3-8b", "Layer", "O2", 6),
    ],
    ids=["deepseek-v2-lite", "deepseek-v2-lite in float8", "qwen3-30b-a3b", "llama-3-8b"],
)
def test_a_layer(
    example: str,
    block: str,
    pipeline: str,
    most: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"{example}_{len(pipeline)}".replace("-", "_")
    folder = tmp_path / f"counted_{block.lower()}_{name}"
    for found in counted(example, block, folder, monkeypatch, pipeline):
        assert len(found) <= most, found
