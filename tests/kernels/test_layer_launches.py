"""How many launches a decoding step takes in a layer of a published model, counted as it runs."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from archsmith.compiler.driver import Compiler
from archsmith.compiler.emit.package import Facts, emit
from archsmith.compiler.emit.write import write
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.attention import Attend
from archsmith.compiler.ops.experts import FusedExperts
from archsmith.compiler.ops.moe import NormRouter, Router
from archsmith.compiler.schedule.code import name
from kernels.checks import emitted, registry
from kernels.test_launches import Count

EXAMPLES = Path(__file__).parents[2] / "examples"
IN_FLOAT8 = "O2,quantize-kv after compress-kv,fuse-dequantize after absorb-attention"


def launches(
    package: ModuleType,
    layer: Any,
    batch: int,
    each: dict[str, int],
    counters: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
) -> list[str]:
    """What one layer launches for a token of each row, on tensors without numbers.

    A kernel that is given fewer counters for a row than it wants sets its own to zero first.
    """
    module, caches = (sys.modules[f"{package.__name__}.{name}"] for name in ("model", "cache"))
    memsets: list[str] = []

    def counting(key: str, registered: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any, **options: Any) -> Any:
            mine = [x for x in (*given, *options.values()) if x is arrived]
            if sum(map(len, mine)) < counters[key] * batch:
                memsets.append(f"memset of {key}")
            return registered(*given, **options)

        return call

    for key, function in list(vars(module).items()):
        if hasattr(function, "registered"):
            registered = function.registered
            registered = counting(key, registered) if counters.get(key) else registered
            monkeypatch.setattr(module, key, registered)
    width, dtypes = package.Config.hidden_size, getattr(layer, "dtypes", {})
    with torch.device("meta"):
        slots = torch.full((batch, 1), 7)
        buffers = {
            name: torch.zeros(batch, 65, *row, dtype=dtypes.get(name, torch.bfloat16))
            for name, row in layer.rows.items()
        }
        x = torch.zeros(batch, 1, width, dtype=torch.bfloat16)
        turns = [torch.zeros(batch, 1, pairs(layer), dtype=torch.float32) for _ in range(2)]
        arrived = torch.zeros(batch * caches.COUNTERS, dtype=torch.int32)
    cache = caches.LayerCache(buffers, slots, 64, False, arrived)
    with torch.no_grad(), Count() as count:
        layer(x, x, slots, *turns, cache)
    monkeypatch.undo()
    return [*(op for op in count.ops for _ in range(each.get(op.split(".")[-2], 1))), *memsets]


def pairs(layer: Any) -> int:
    """Pairs of columns that its rope turns."""
    return int(layer.rows["k"][-1]) // 2 if "k" in layer.rows else 32


def counted(
    example: str,
    block: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    pipeline: str = "O2",
    target: str = "h200",
) -> list[list[str]]:
    """What a layer launches with one row and with eight, built with all these passes."""
    compiler = Compiler.installed(target, numeric=False)
    pipeline, passes = compiler.passes(pipeline)
    spec = compiler.load(EXAMPLES / f"{example}.yaml")
    model, _ = compiler.rewrite(compiler.build(spec), passes, lambda *_: {"perplexity": 0.0})
    plan = compiler.schedule(model)
    sizes = spec.vocab_size, spec.hidden_size, spec.max_positions
    write(folder, emit(plan, compiler.registry.templates, Facts("0", *sizes, target, pipeline, {})))
    taken = [c for c in plan.choices if c.kernel.triton and c.phase == "decode"]
    counters = {
        c.kernel.function(c.op): c.kernel.counters(c.op, c.operands, plan.target) for c in taken
    }
    assert sum(counters.values()) > 0
    monkeypatch.syspath_prepend(str(folder.parent))
    package = importlib.import_module(folder.name)
    with torch.device("meta"):
        layer = getattr(sys.modules[f"{folder.name}.model"], block)(torch.bfloat16)
    found = []
    for batch in (1, 8):
        sizes = Sizes(batch, 1, 64)
        each = {
            c.kernel.function(c.op): c.kernel.cost(c.op, c.operands, sizes, plan.target).launches
            for c in taken
        }
        found.append(launches(package, layer, batch, each, counters, monkeypatch))
    return found


@pytest.mark.parametrize(
    ("example", "block", "pipeline", "target", "most"),
    [
        ("deepseek-v2-lite", "Sparse", "O2", "h200", (7, 7)),
        ("deepseek-v2-lite", "Sparse", IN_FLOAT8, "h200", (7, 7)),
        # Of eight rows 7,168 wide, what is normed before a router is so by a launch of its own.
        ("deepseek-v3", "Sparse", "O2", "b200", (8, 9)),
        # On Hopper, Gluon combines what few rows' programs found in a launch of its own.
        ("deepseek-v3", "Sparse", IN_FLOAT8, "h200", (9, 10)),
        ("qwen3-30b-a3b", "Sparse", "O2", "h200", (6, 6)),
        ("qwen2-5-7b-instruct", "Full", "O2", "h200", (5, 5)),  # as Llama, with biases
    ],
    ids=lambda value: "in float8" if value == IN_FLOAT8 else str(value),
)
def test_a_layer(
    example: str,
    block: str,
    pipeline: str,
    target: str,
    most: tuple[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"{example}_{len(pipeline)}".replace("-", "_")
    folder = tmp_path / f"counted_{block.lower()}_{name}"
    for found, limit in zip(
        counted(example, block, folder, monkeypatch, pipeline, target), most, strict=True
    ):
        assert len(found) == limit, "\n".join(found)


class Recorded:
    """Stands in for a kernel: keeps its name wherever it would be launched."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self.name, self.calls = name, calls

    def __getitem__(self, grid: object) -> Callable[..., None]:
        return lambda *_, **__: self.calls.append(self.name)


def launched(
    monkeypatch: pytest.MonkeyPatch,
    kernel: str,
    op: Op,
    texts: Sequence[str],
    rows: int,
    tokens: int = 1,
    context: int = 9,
) -> list[str]:
    """The kernels that a call launches, and what PyTorch does beside them but to allocate.

    It is given as many counters as the kernel says that it wants.
    """
    types = tuple(map(TensorType.parse, texts))
    family = registry().kernels[kernel]()
    module = emitted(family, {op: types}, "h200")
    calls: list[str] = []
    launches = {n: f.launch for n, f in vars(module).items() if hasattr(f, "launch")}
    for text in (vars(module), *(launch.__globals__ for launch in launches.values())):
        for key in [key for key, value in text.items() if hasattr(value, "run")]:
            monkeypatch.setitem(text, key, Recorded(key, calls))
    names = op.operand_names()[: len(types)]
    operands = {
        key: torch.empty(
            type.sizes("size", B=rows, T=tokens, S=context),
            dtype=getattr(torch, type.dtype),
            device="meta",
        )
        for key, type in zip(names, types, strict=True)
    }
    for key, launch in launches.items():
        monkeypatch.setattr(module, key, launch)
    counters = family.counters(op, types, registry().targets["h200"])
    arrived = {"arrived": name("arrived")} if counters else {}
    code = family.call(op.at("size"), *map(name, names), phases=("decode",), **arrived)
    operands["arrived"] = torch.empty(rows * counters, dtype=torch.int32, device="meta")
    with Count() as count:
        eval(code.text, {**vars(module), **operands})
    monkeypatch.undo()
    return [*(op for op in count.ops if "empty" not in op), *calls]


def test_what_norms_and_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Qwen3-30B's: one launch and nothing beside it, as long as each program norms all rows."""
    x, weight = "bfloat16[B, T, 2048]", "bfloat16[128, 2048]"
    op, texts = NormRouter("softmax", Dim.of(8), eps=1e-6), [x, x, "bfloat16[2048]", weight]
    for tokens, wanted in (
        (1, ["route_few"]),
        (8, ["route_few"]),
        (9, ["_add_rms_norm", "route_few"]),
        (16, ["_add_rms_norm", "route_few"]),
        (17, ["_add_rms_norm", "route_many", "route_many"]),
    ):
        found = launched(monkeypatch, "triton.norm_router", op, texts, tokens)
        assert found == wanted
    plain = Router("softmax", Dim.of(8)), [x, weight]
    assert launched(monkeypatch, "triton.router", *plain, 1) == [
        "aten.new_zeros.default",
        "route_few",
    ]
    assert len(launched(monkeypatch, "triton.router", *plain, 17)) == 2


@pytest.mark.parametrize("heads", ["[B, S, 8, 128]", "[B, S, 1, 128]"])
@pytest.mark.parametrize("tokens", [1, 8])
def test_attention_has_counters_enough(
    heads: str, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For all tiles of the queries of several tokens: it sets none of its own to zero."""
    texts = "bfloat16[B, T, 32, 128]", *[f"bfloat16{heads}"] * 2, "int64[B, T]"
    given = "triton.decode_attention", Attend(0.1), texts, 2, tokens, 4096
    assert launched(monkeypatch, *given) == ["split_attention"]


@pytest.mark.parametrize("tokens", [1, 16, 32])
def test_experts_are_two_launches_and_nothing_beside(
    tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = "bfloat16[B, T, 2048]", "int64[B, T, 8]", "float32[B, T, 8]"
    weights = "bfloat16[128, 2, 768, 2048]", "bfloat16[128, 2048, 768]"
    found = launched(
        monkeypatch, "triton.grouped_gemm", FusedExperts("silu"), [*texts, *weights], tokens
    )
    assert found == ["_product", "_product"]
