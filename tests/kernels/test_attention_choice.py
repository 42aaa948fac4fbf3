"""When attention is computed in Triton, and with which tiles."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.ir.cost import Sizes as Call
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.attention import Attend
from archsmith.compiler.plugins import Registry
from archsmith.compiler.schedule.candidates import use
from archsmith.compiler.schedule.select import select
from archsmith.templates.kernels.attention import Sizes
from kernels.test_ahead import EXAMPLES, planned

KERNELS = ("triton.prefill_attention", "triton.decode_attention")
GRADIENTS = "triton.prefill_attention_gradients"
TARGETS = ("a100", "h100", "h200", "b200", "mi300x")
WIDTHS = [(8, 8), (64, 64), (80, 80), (96, 96), (128, 128), (192, 128), (256, 256), (576, 512)]


def operands(
    heads: int, kv_heads: int, key: int, value: int, dtype: str = "bfloat16"
) -> tuple[TensorType, ...]:
    shapes = f"T, {heads}, {key}", f"S, {kv_heads}, {key}", f"S, {kv_heads}, {value}"
    types = (f"{dtype}[B, {shape}]" for shape in shapes)
    return (*map(TensorType.parse, types), TensorType.parse("int64[B, T]"))


USUAL = operands(32, 8, 128, 128)


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    ("op", "types"),
    [
        (Attend(0.1, window=Dim(64, 8)), USUAL),
        (Attend(0.1, softcap=30.0), USUAL),
        (Attend(0.1), (*USUAL, TensorType.parse("bfloat16[32]"))),
    ],
)
def test_windows_caps_and_sinks_have_a_text(
    registry: Registry, name: str, op: Attend, types: tuple[TensorType, ...]
) -> None:
    assert registry.kernels[name]().refuses(op, types, registry.targets["h200"]) is None


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize(
    ("op", "types", "reason"),
    [
        (Attend(0.0), USUAL, "a scale of 0.0 turns the largest score into the least"),
        (Attend(0.1), operands(8, 8, 64, 64, "float64"), "float64 is computed by PyTorch"),
        (
            Attend(0.1),
            operands(8, 8, 640, 512),
            "a row of 640 leaves no room for a block of slots: at most 576",
        ),
        (Attend(0.1), USUAL, None),
    ],
)
def test_what_is_refused(
    registry: Registry, name: str, op: Attend, types: tuple[TensorType, ...], reason: str | None
) -> None:
    assert registry.kernels[name]().refuses(op, types, registry.targets["h200"]) == reason


@pytest.mark.parametrize("name", KERNELS)
def test_a_target_without_triton_or_room_is_refused(registry: Registry, name: str) -> None:
    kernel = registry.kernels[name]()
    reason = kernel.refuses(Attend(0.1), USUAL, registry.targets["cpu"])
    assert reason == "the target has no Triton"
    small = registry.targets["mi300x"].__class__(
        "small", "", triton={"backend": "hip", "arch": "gfx", "warp_size": 64}, shared_memory=9999
    )
    reason = kernel.refuses(Attend(0.1), operands(16, 1, 576, 512), small)
    assert reason == "no tile fits the shared memory of 9999 bytes"


@pytest.mark.parametrize("name", KERNELS)
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("group", [1, 4, 16, 128])
def test_tiles_fit(registry: Registry, name: str, target: str, group: int) -> None:
    chip, kernel = registry.targets[target], registry.kernels[name]()
    for dtype in ("bfloat16", "float32"):
        for key, value in WIDTHS:
            types = operands(group, 1, key, value, dtype)
            if reason := kernel.refuses(Attend(0.1), types, chip):
                assert reason == "no tile fits the shared memory of 65536 bytes"
                assert (key, dtype) == (576, "float32")
                continue
            tiles = use(kernel, Attend(0.1), types, chip).tiles
            assert tiles[-1][0] is None  # any number of rows is served
            for _, config in tiles:
                tile = config.constants
                assert tile["KEY"] + tile["REST"] >= key
                assert tile["VALUE"] >= value
                assert all(math.log2(size).is_integer() for size in tile.values() if size)
                assert min(tile["BLOCK_M"], tile["BLOCK_N"], tile["KEY"], tile["VALUE"]) >= 16
                assert config.num_stages is not None
                held = Sizes.of(types).held(
                    tile["BLOCK_M"], tile["BLOCK_N"], config.num_stages, chip
                )
                assert held <= chip.shared_memory


@pytest.mark.parametrize("target", TARGETS)
def test_tiles_of_gradients_fit(registry: Registry, target: str) -> None:
    chip, kernel = registry.targets[target], registry.kernels[GRADIENTS]()
    for dtype in ("bfloat16", "float32"):
        for key, value in [pair for pair in WIDTHS if pair[0] <= 256]:
            types = operands(8, 2, key, value, dtype)
            assert kernel.refuses(Attend(0.1), types, chip) is None
            ((rows, config),) = use(kernel, Attend(0.1), types, chip).tiles
            assert rows is None
            tile = config.constants
            assert tile["KEY"] + tile["REST"] >= key
            assert tile["VALUE"] >= value
            assert min(tile[side] for side in ("QUERY_M", "QUERY_N", "SLOT_M", "SLOT_N")) >= 16


@pytest.mark.parametrize(
    ("width", "without", "reason"),
    [
        (264, "", "its gradients: a head of 264 leaves no room for its sums: at most 256"),
        (128, GRADIENTS, f"there is no {GRADIENTS}"),
    ],
)
def test_what_has_no_gradients_here_pytorch_trains(
    registry: Registry, tmp_path: Path, width: int, without: str, reason: str
) -> None:
    compiler = Compiler.installed("h200", numeric=False)
    page = (EXAMPLES / "llama-3-8b.yaml").read_text()
    (tmp_path / "page.yaml").write_text(page.replace("head_dim: 128", f"head_dim: {width}"))
    model = compiler.build(compiler.load(tmp_path / "page.yaml"))
    kernels = {name: kernel for name, kernel in registry.kernels.items() if name != without}
    plan = select(model, kernels, compiler.target)
    of = {choice.phase: choice for choice in plan.choices if choice.op.name == "attend"}
    assert of["train"].kernel.name == "torch.attend"
    assert dict(of["train"].refusals)["triton.prefill_attention"] == reason
    chosen = "gluon.prefill_attention" if width == 128 else "triton.prefill_attention"
    assert of["prefill"].kernel.name == chosen
    assert GRADIENTS not in {kernel.name for kernel in plan.gradients.values()}


def test_keys_have_the_parts_that_waste_least() -> None:
    def parts(key: int) -> tuple[int, int]:
        return Sizes(key, 64, 1, 2).parts

    assert [parts(k) for k in (8, 16, 24, 64, 128, 256)] == [
        *((16, 0), (16, 0), (32, 0), (64, 0), (128, 0), (256, 0))
    ]
    assert [parts(k) for k in (40, 80, 96, 192, 576)] == [
        *((32, 16), (64, 16), (64, 32), (128, 64), (512, 64))
    ]
    assert parts(120) == (128, 0)  # two of 64 are no less


@pytest.mark.parametrize(("target", "many"), [("h200", "gluon"), ("mi300x", "triton")])
def test_prefill_and_decode_have_a_kernel_each(target: str, many: str) -> None:
    plan = planned("llama-3-8b", target)
    attends = [choice for choice in plan.choices if choice.op.name == "attend"]
    assert {choice.phase: choice.kernel.name for choice in attends} == {
        "train": f"{many}.prefill_attention",
        "prefill": f"{many}.prefill_attention",
        "decode": "triton.decode_attention",
    }
    # What stands in for another is differentiated with it.
    for name in {f"{many}.prefill_attention", "triton.prefill_attention"}:
        assert plan.gradients[name].name == GRADIENTS


def test_what_decoding_costs(registry: Registry) -> None:
    """Rows that leave some processor idle are shared out: a launch combines what is found, or the
    last program does, in the time of two."""
    kernel = registry.kernels["triton.decode_attention"]()
    for target, launches, alone in (("h200", (1, 1), 2), ("mi300x", (2, 1), 0)):
        chip = registry.targets[target]
        few = kernel.cost(Attend(0.1), USUAL, Call(1, 1, 4096), chip)
        many = kernel.cost(Attend(0.1), USUAL, Call(64, 1, 4096), chip)
        assert (few.launches, many.launches) == launches
        assert few.bytes - alone * chip.launch * chip.bandwidth == pytest.approx(many.bytes / 64)


def test_the_cpu_has_none_of_them() -> None:
    plan = planned("tiny-llama", "cpu")
    assert not {kernel.name for kernel in plan.used()} & set(KERNELS)
    assert set(KERNELS) <= set(Compiler.installed().registry.kernels)
