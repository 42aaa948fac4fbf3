"""Checkpoints in float8 with a scale for each block: what is loaded, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from package.quantized import (
    BLOCK,
    SINGLE,
    STORED,
    configure,
    dequantized,
    projections_in_float8,
    store,
    without_float8,
)
from package.tiny import Build, fresh, prompt
from safetensors.torch import load_file, save_file
from torch import Tensor

Float8 = tuple[ModuleType, Path, dict[str, Tensor]]
Q = "model.layers.1.self_attn.q_b_proj.weight"


@pytest.fixture
def float8(package: Build, tmp_path: Path) -> Float8:
    """A DeepSeek-V3 package, a folder for `store`, and its tensors, projections in float8."""
    built = package("tiny-deepseek-v3")
    built.save(fresh(built, torch.float32), tmp_path)
    return built, tmp_path, projections_in_float8(load_file(tmp_path / SINGLE))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_every_number_of_e4m3_times_its_scale(package: Build, kind: torch.dtype) -> None:
    """576 rows, as DeepSeek-V3's kv_a_proj_with_mqa has: the last block is smaller."""
    draw = torch.Generator().manual_seed(1)
    stored = torch.randint(256, (576, 300), generator=draw).to(torch.uint8)
    stored = stored.view(torch.float8_e4m3fn)
    scale = torch.rand(5, 3, generator=draw).to(kind)
    found = package("tiny-deepseek-v3").float8.Float8((128, 128)).dequantize([stored, scale])
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found, dequantized(stored, scale, [128, 128]), rtol=0, atol=0, equal_nan=True
    )
    assert found.isnan().sum() == (stored.view(torch.uint8) & 127 == 127).sum() > 0


def test_float8_is_loaded_as_it_is(float8: Float8) -> None:
    built, folder, tensors = float8
    assert sum(name.endswith("_scale_inv") for name in tensors) > 50
    store(tensors, folder)
    plain = folder / "plain"
    plain.mkdir()
    save_file(without_float8(tensors, BLOCK), plain / SINGLE)
    (plain / "config.json").write_bytes((folder / "config.json").read_bytes())
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        # Nothing there is quantized any more, whatever its configuration says.
        wanted, found = built.load(plain, dtype=dtype), built.load(folder, dtype=dtype)
        for name, parameter in wanted.named_parameters():
            assert torch.equal(found.get_parameter(name), parameter), (name, dtype)
    with torch.no_grad():
        assert torch.equal(found(prompt(built)), wanted(prompt(built)))


def test_a_nan_is_loaded_as_any_number(float8: Float8) -> None:
    built, folder, tensors = float8
    tensors[Q].view(torch.uint8)[3, 5] = 0x7F
    tensors[Q].view(torch.uint8)[4, 6] = 0xFF
    store(tensors, folder)
    assert sum(int(p.isnan().sum()) for p in built.load(folder).parameters()) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q_scale": None}, f"missing (1):\n    {Q}_scale_inv, beside {Q} in a.safetensors"),
        ({"q": None}, f"missing (1):\n    {Q}, beside {Q}_scale_inv in b.safetensors"),
        (
            {"q_scale": torch.ones(3, 2)},
            f"misshapen (1):\n    {Q}_scale_inv in b.safetensors: [3, 2], not [10, 2] for float8 in"
            " blocks of [16, 24]",
        ),
        ({"q_scale": torch.ones(10)}, f"{Q}_scale_inv in b.safetensors: [10], not [10, 2] for"),
        (
            {"q_scale": torch.ones(10, 2).half()},
            f"unusable type (1):\n    {Q}_scale_inv in b.safetensors: F16, not F32 or BF16",
        ),
        ({"q": torch.ones(160, 44)}, f"unexpected (1):\n    {Q}_scale_inv in b.safetensors"),
        (
            {"q": torch.ones(160, 44).to(torch.float8_e5m2)},
            f"unusable type (1):\n    {Q} in a.safetensors: F8_E5M2, not F8_E4M3",
        ),
        (
            {"q": torch.ones(160, 45).to(torch.float8_e4m3fn)},
            f"{Q} in a.safetensors: [160, 45], not [160, 44] for float8",
        ),
        (
            {"norm": torch.ones(80).to(torch.float8_e4m3fn)},
            "model.norm.weight in a.safetensors: float8 in blocks of [16, 24], and [80] is no",
        ),
    ],
)
def test_scales_are_those_of_their_tensor(
    float8: Float8,
    change: dict[str, Tensor | None],
    message: str,
) -> None:
    built, folder, tensors = float8
    assert list(tensors[Q].shape) == [160, 44]
    names = {"q": Q, "q_scale": f"{Q}_scale_inv", "norm": "model.norm.weight"}
    tensors |= {names[short]: x for short, x in change.items() if x is not None}
    for short in [short for short, x in change.items() if x is None]:
        del tensors[names[short]]
    store(tensors, folder)
    with pytest.raises(ValueError, match="does not hold this model's weights") as wrong:
        built.load(folder)
    assert message in str(wrong.value)


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        (None, "proj.weight in a.safetensors: F8_E4M3, and config.json has no quantization_config"),
        ({}, "quantization_config.quant_method is None, of which only 'fp8' and 'mxfp4' can"),
        ([128], r"quantization_config is [128], not an object"),
        (STORED | {"quant_method": "gptq"}, "quantization_config.quant_method is 'gptq', of"),
        (STORED | {"fmt": "e5m2"}, "quantization_config.fmt is 'e5m2', of which only 'e4m3'"),
        (STORED | {"activation_scheme": "static"}, "activation_scheme is 'static', of which"),
        (STORED, "weight_block_size is None, not rows and columns such as [128, 128]"),
        (STORED | {"weight_block_size": [16, 0]}, "weight_block_size is [16, 0], not rows"),
        (STORED | {"weight_block_size": [16, 16.0]}, "weight_block_size is [16, 16.0], not"),
        (STORED | {"weight_block_size": [2**31, 2]}, "weight_block_size is [2147483648, 2]"),
        (
            STORED | {"weight_block_size": [16, 16]},
            "[10, 2], not [10, 3] for float8 in blocks of [16, 16]",
        ),
    ],
)
def test_another_quantization_is_refused(float8: Float8, quantization: Any, message: str) -> None:
    built, folder, tensors = float8
    store(tensors, folder)
    configure(folder, quantization)
    with pytest.raises(ValueError, match=r"config\.json|this model's weights") as wrong:
        built.load(folder)
    assert message in str(wrong.value)


DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


@pytest.mark.parametrize("stored", DTYPES, ids=str)
def test_any_float_is_loaded_as_any_other(
    package: Build, tmp_path: Path, stored: torch.dtype
) -> None:
    built = package("tiny-llama")
    model = fresh(built, stored)
    built.save(model, tmp_path)
    for dtype in DTYPES:
        loaded = built.load(tmp_path, dtype=dtype)
        for name, parameter in model.named_parameters():
            assert torch.equal(loaded.get_parameter(name), parameter.to(dtype)), name
