"""When the choice of experts is given to Triton, with what tiles, and what it is on a CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.moe import NormRouter, Router
from archsmith.compiler.plugins import Registry
from kernels.checks import emitted

OURS = "triton.router"
# Experts, experts a token, groups, width, and the weight's dtype: DeepSeek-V2-Lite's, Qwen3-30B's,
# DeepSeek-V2's, DeepSeek-V3's and Mixtral's.
MODELS = [
    (64, 6, 1, 2048, "float32"),
    (128, 8, 1, 2048, "bfloat16"),
    (160, 6, 8, 5120, "float32"),
    (256, 8, 8, 7168, "float32"),
    (8, 2, 1, 4096, "bfloat16"),
]
CHIPS = ("a100", "h100", "h200", "b200", "mi300x")


def op(top_k: int, groups: int = 1) -> Router:
    top_groups = Dim.of(max(groups // 2, 1))
    return Router("softmax", Dim.of(top_k), Dim.of(groups), top_groups)


def types(
    experts: int, width: int, dtype: str = "bfloat16", wide: str | None = None
) -> tuple[TensorType, ...]:
    texts = f"{dtype}[B, T, {width}]", f"{wide or dtype}[{experts}, {width}]"
    return tuple(map(TensorType.parse, texts))


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_tiles(registry: Registry, model: tuple[int, int, int, int, str], chip: str) -> None:
    experts, top_k, groups, width, dtype = model
    kernel, target = registry.kernels[OURS](), registry.targets[chip]
    routing, operands = op(top_k, groups), types(experts, width, wide=dtype)
    assert kernel.refuses(routing, operands, target) is None
    for rows in (*kernel.ladder, 100_000):
        config = next(iter(kernel.configs(routing, operands, rows, target)))
        tile = config.constants
        assert tile["BLOCK"] % tile["SLOTS"] == 0
        if "M" in tile:  # few rows
            assert rows <= tile["M"]
            assert tile["M"] in (1, 16)
            assert (tile["SPLITS"] - 1) * tile["BLOCK_K"] < width  # a split without columns idles
            assert tile["BLOCK_N"] * tile["BLOCK_K"] <= 32 * 32 * config.num_warps
            assert tile["CHOSEN"] * tile["BLOCK"] <= 32 * 32 * config.num_warps
            continue
        assert tile["BLOCK"] // tile["SLOTS"] >= groups
        assert tile["SLOTS"] * groups >= experts
        assert width % (tile["SPLITS"] * tile["BLOCK_K"]) in (0, width % tile["BLOCK_K"])
        assert tile["BLOCK_M"] * tile["BLOCK_N"] <= 64 * 32 * config.num_warps
        programs = -(-rows // tile["BLOCK_M"]) * tile["BLOCK"] // tile["BLOCK_N"] * tile["SPLITS"]
        if rows > 1 and experts * width > 2**17:  # too much for a processor to read alone
            assert 3 * programs > target.processors


def test_refusals(registry: Registry) -> None:
    kernel = registry.kernels[OURS]()
    h200, cpu = registry.targets["h200"], registry.targets["cpu"]
    assert kernel.refuses(op(2), types(8, 64), h200) is None
    assert "no Triton" in (kernel.refuses(op(2), types(8, 64), cpu) or "")
    assert "float64" in (kernel.refuses(op(2), types(8, 64, "float64"), h200) or "")
    mixed = types(8, 64, "float16", "float32")
    assert "float16 and a router's weight in float32" in (kernel.refuses(op(2), mixed, h200) or "")
    assert "row of 2048 experts" in (kernel.refuses(op(2), types(1025, 64), h200) or "")
    assert "row of 2048 experts" in (kernel.refuses(op(2, 9), types(9 * 65, 64), h200) or "")
    small = replace(h200, shared_memory=4096)
    assert "shared memory of 4096" in (kernel.refuses(op(2), types(8, 2048), small) or "")


def test_what_it_takes(registry: Registry) -> None:
    """One launch where programs have rows enough; else sums go through memory, to a second."""
    kernel, h200 = registry.kernels[OURS](), registry.targets["h200"]
    for (experts, width, wide), rows, launches in (
        ((8, 4096, "bfloat16"), 1, 2),
        ((8, 4096, "bfloat16"), 16, 2),
        ((8, 4096, "bfloat16"), 4096, 1),
        ((128, 2048, "bfloat16"), 4096, 1),
        ((256, 7168, "float32"), 1, 2),
        ((256, 7168, "float32"), 4096, 2),
    ):
        operands, sizes = types(experts, width, wide=wide), Sizes(1, rows, rows)
        cost, own = kernel.cost(op(2), operands, sizes, h200), op(2).cost(sizes, *operands)
        assert cost.flops == (3 if wide == "float32" and rows > 1 else 1) * own.flops
        assert cost.launches == launches
        parts, rest = divmod(cost.bytes - own.bytes, 2 * rows * max(experts, 16) * 4)
        assert rest == 0
        splits = (0,) if launches == 1 else range(1, 17) if rows <= 16 else (1, 4, 16)
        assert parts in splits


# Rows up to which each program norms them all for itself: so many of these widths are read in the
# time of two launches.
@pytest.mark.parametrize(
    ("chip", "width", "most"),
    [("h200", 2048, 8), ("h200", 7168, 2), ("a100", 2048, 4), ("b200", 2880, 8), ("h200", 64, 16)],
)
def test_rows_are_normed_where_they_are_read_in_less_than_a_launch(
    registry: Registry, chip: str, width: int, most: int
) -> None:
    kernel, target = registry.kernels["triton.norm_router"](), registry.targets[chip]
    x, gain = f"bfloat16[B, T, {width}]", f"bfloat16[{width}]"
    texts = x, x, gain, f"bfloat16[128, {width}]"
    operands = tuple(map(TensorType.parse, texts))
    routing = NormRouter("softmax", Dim.of(8), eps=1e-6)
    assert kernel.refuses(routing, operands, target) is None
    for rows in kernel.ladder:
        sizes = Sizes(rows, 1, 100)
        tile = next(iter(kernel.configs(routing, operands, rows, target))).constants
        assert ("NORMED" in tile) == (rows <= most)
        launches = kernel.cost(routing, operands, sizes, target).launches
        assert launches == (1 if rows <= most else 2 if rows <= 16 or width == 64 else 3)
    amd = registry.targets["mi300x"]  # where no program can tell that it is the last
    assert kernel.cost(routing, operands, Sizes(1, 1, 100), amd).launches == 2
    assert kernel.cost(routing, operands, Sizes(16, 1, 100), amd).launches <= 3


def test_on_a_cpu_and_for_gradients_it_is_its_path_in_pytorch(registry: Registry) -> None:
    module = emitted(registry.kernels[OURS](), {op(2): types(5, 32, "float32")}, "h200")

    def gradients(function: object) -> list[torch.Tensor]:
        torch.manual_seed(1)
        x, weight = torch.randn(2, 10, 32), torch.randn(5, 32) / 32**0.5
        x.requires_grad_()
        weight.requires_grad_()
        assert callable(function)
        index, share = function(x, weight, None, score="softmax", top_k=2, normalize=True)
        share.square().sum().backward()
        assert x.grad is not None
        assert weight.grad is not None
        return [index, share.detach(), x.grad, weight.grad]

    wanted = gradients(module.router)
    for found in (gradients(module.fused_router), gradients(module.fused_router.registered)):
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_what_there_are_no_tiles_for(registry: Registry) -> None:
    """A score that the model has not is an error; a dtype that it has not PyTorch computes."""
    module = emitted(registry.kernels[OURS](), {op(2): types(5, 32, wide="float32")}, "h200")
    x, weight = torch.randn(2, 3, 32, dtype=torch.float16), torch.randn(5, 32)
    with pytest.raises(ValueError, match="no kernel for the score 'sigmoid'"):
        module.fused_router.launch(x, weight, None, "sigmoid", 2)
    rules = {"score": "softmax", "top_k": 2, "always": 1, "always_weight": 0.5}
    found = module.fused_router.launch(x, weight, None, **rules)
    for one, other in zip(found, module.router(x, weight, **rules), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("rows", [1, 3, 20])
def test_what_norms_too_is_an_operator(registry: Registry, rows: int) -> None:
    """It says what it writes, also where it is compiled, and leaves its counters as zeros."""
    texts = *["float32[B, T, 40]"] * 2, "float32[40]", "float32[5, 40]"
    routing = NormRouter("softmax", Dim.of(2), eps=1e-6)
    kernel = registry.kernels["triton.norm_router"]()
    module = emitted(kernel, {routing: tuple(map(TensorType.parse, texts))}, "h200")
    function, x = module.fused_norm_router.registered, torch.randn(rows, 1, 40)
    counters = torch.zeros(1, dtype=torch.int32)
    given = x, x, torch.randn(80)[::2], torch.randn(5, 40), counters, None, 1e-6, "softmax", 2
    checks = "test_schema", "test_faketensor"
    torch.library.opcheck(function, given, test_utils=checks)

    def twice() -> tuple[torch.Tensor, ...]:
        total, h, *_ = function(*given)
        found: tuple[torch.Tensor, ...] = function(total, h, *given[2:])
        return found

    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")
    for one, other in zip(compiled(), twice(), strict=True):
        torch.testing.assert_close(one, other)
    assert not counters.any()
