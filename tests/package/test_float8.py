"""Checkpoints in float8 with a scale for each block: what is loaded, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from package.tiny import Build, fresh, prompt
from safetensors.torch import load_file, save_file
from torch import Tensor

Checkpoint = tuple[ModuleType, Path]
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BLOCK = [16, 24]  # no size of the tiny model is a multiple of both
STORED = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}
Q = "model.layers.1.self_attn.q_b_proj.weight"


def decoded(byte: int) -> float:
    """A number of E4M3 (arXiv 2209.05433, table 1): no infinity, and one NaN of either sign."""
    sign, exponent, mantissa = -1 if byte >> 7 else 1, byte >> 3 & 15, byte & 7
    if exponent == 15 and mantissa == 7:
        return math.nan
    if exponent == 0:
        return sign * mantissa * 2.0**-9
    return sign * (8 + mantissa) * 2.0 ** (exponent - 10)


def dequantized(stored: Tensor, scale: Tensor, block: list[int]) -> Tensor:
    """float32, rounded once from exact products: element by element, in float64."""
    table = torch.tensor([decoded(byte) for byte in range(256)], dtype=torch.float64)
    rows = torch.arange(stored.shape[0])[:, None] // block[0]
    columns = torch.arange(stored.shape[1]) // block[1]
    return (table[stored.view(torch.uint8).long()] * scale.double()[rows, columns]).float()


def quantized(weight: Tensor, block: list[int], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A weight in float8, and its scales: the largest of each block becomes 448."""
    n, k = (-(-size // by) for size, by in zip(weight.shape, block, strict=True))
    scale = torch.empty(n, k)
    stored = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
    for i in range(n):
        for j in range(k):
            at = (
                slice(i * block[0], (i + 1) * block[0]),
                slice(j * block[1], (j + 1) * block[1]),
            )
            scale[i, j] = (weight[at].abs().max() / 448).to(dtype)
            stored[at] = (weight[at] / scale[i, j]).clamp(-448, 448).to(torch.float8_e4m3fn)
    return stored, scale.to(dtype)


def is_float8(name: str) -> bool:
    """Whether DeepSeek-V3 stores it in float8."""
    return "proj" in name and "norm" not in name


def store(tensors: dict[str, Tensor], folder: Path, block: list[int] = BLOCK) -> None:
    """Write a checkpoint in two files, the scales apart from what they scale."""
    places = {name: f"{'ab'[name.endswith('scale_inv')]}.safetensors" for name in tensors}
    for file in set(places.values()):
        held = {name: x for name, x in tensors.items() if places[name] == file}
        save_file(held, folder / file)
    (folder / SINGLE).unlink(missing_ok=True)
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    configure(folder, STORED | {"weight_block_size": block})


def configure(folder: Path, quantization: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config))


@pytest.fixture
def float8(package: Build, tmp_path: Path) -> tuple[ModuleType, Path, dict[str, Tensor]]:
    """A DeepSeek-V3 package, a folder for `store`, and its tensors, projections in float8."""
    built = package("tiny-deepseek-v3")
    built.save(fresh(built, torch.float32), tmp_path)
    tensors = load_file(tmp_path / SINGLE)
    for name in filter(is_float8, list(tensors)):
        tensors[name], tensors[f"{name}_scale_inv"] = quantized(tensors[name], BLOCK, torch.float32)
    return built, tmp_path, tensors


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_every_number_of_e4m3_times_its_scale(package: Build, kind: torch.dtype) -> None:
    """576 rows, as DeepSeek-V3's kv_a_proj_with_mqa has: the last block is smaller."""
    draw = torch.Generator().manual_seed(1)
    stored = torch.randint(256, (576, 300), generator=draw).to(torch.uint8)
    stored = stored.view(torch.float8_e4m3fn)
    scale = torch.rand(5, 3, generator=draw).to(kind)
    found = package("tiny-deepseek-v3").float8.dequantize(stored, scale, (128, 128))
    assert found.dtype == torch.float32
    torch.testing.assert_close(
        found, dequantized(stored, scale, [128, 128]), rtol=0, atol=0, equal_nan=True
    )
    assert found.isnan().sum() == (stored.view(torch.uint8) & 127 == 127).sum() > 0


def test_float8_is_loaded_as_it_is(float8: tuple[ModuleType, Path, dict[str, Tensor]]) -> None:
    built, folder, tensors = float8
    assert sum(is_float8(name) for name in tensors) > 50  # tensors and scales
    store(tensors, folder)
    plain = folder / "plain"
    plain.mkdir()
    for name in [name for name in tensors if f"{name}_scale_inv" in tensors]:
        tensors[name] = dequantized(tensors[name], tensors.pop(f"{name}_scale_inv"), BLOCK)
    save_file(tensors, plain / SINGLE)
    (plain / "config.json").write_bytes((folder / "config.json").read_bytes())
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        # Nothing there is quantized any more, whatever its configuration says.
        wanted, found = built.load(plain, dtype=dtype), built.load(folder, dtype=dtype)
        for name, parameter in wanted.named_parameters():
            assert torch.equal(found.get_parameter(name), parameter), (name, dtype)
    with torch.no_grad():
        assert torch.equal(found(prompt(built)), wanted(prompt(built)))


def test_a_nan_is_loaded_as_any_number(float8: tuple[ModuleType, Path, dict[str, Tensor]]) -> None:
    built, folder, tensors = float8
    tensors[Q].view(torch.uint8)[3, 5] = 0x7F
    tensors[Q].view(torch.uint8)[4, 6] = 0xFF
    store(tensors, folder)
    assert sum(int(p.isnan().sum()) for p in built.load(folder).parameters()) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"q_scale": None},
            f"{Q} in a.safetensors: F8_E4M3, and its scales, named *_scale_inv, are not there",
        ),
        (
            {"q_scale": torch.ones(3, 2)},
            f"{Q} in a.safetensors: its scales are [3, 2], not [10, 2] for blocks",
        ),
        (
            {"q_scale": torch.ones(10)},
            f"{Q} in a.safetensors: its scales are [10], not [10, 2] for blocks of",
        ),
        (
            {"q_scale": torch.ones(10, 2).half()},
            f"{Q} in a.safetensors: its scales are F16, not F32 or BF16",
        ),
        ({"q": torch.ones(160, 44)}, f"unexpected (1):\n    {Q}_scale_inv in b.safetensors"),
        (
            {"q": torch.ones(160, 44).to(torch.float8_e5m2)},
            f"unusable type (1):\n    {Q} in a.safetensors: F8_E5M2",
        ),
        (
            {"q": torch.ones(160, 45).to(torch.float8_e4m3fn)},
            f"{Q} in a.safetensors: [160, 45], not [160, 44]",
        ),
        (
            {"norm": torch.ones(80).to(torch.float8_e4m3fn)},
            "model.norm.weight in a.safetensors: F8_E4M3 of shape [80], not a matrix",
        ),
    ],
)
def test_scales_are_those_of_their_tensor(
    float8: tuple[ModuleType, Path, dict[str, Tensor]],
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
        (None, "F8_E4M3, and config.json has no quantization_config"),
        ({}, "quantization_config.quant_method is None, of which only 'fp8' can be loaded"),
        ([128], r"quantization_config is [128], not an object"),
        (STORED | {"quant_method": "gptq"}, "quantization_config.quant_method is 'gptq', of"),
        (STORED | {"fmt": "e5m2"}, "quantization_config.fmt is 'e5m2', of which only 'e4m3'"),
        (STORED | {"activation_scheme": "static"}, "activation_scheme is 'static', of which"),
        (STORED, "weight_block_size is None, not rows and columns such as [128, 128]"),
        (STORED | {"weight_block_size": [16, 0]}, "weight_block_size is [16, 0], not rows"),
        (STORED | {"weight_block_size": [16, 16.0]}, "weight_block_size is [16, 16.0], not"),
        (STORED | {"weight_block_size": [2**31, 2]}, "weight_block_size is [2147483648, 2]"),
        (STORED | {"weight_block_size": [16, 16]}, "its scales are [10, 2], not [10, 3] for"),
    ],
)
def test_another_quantization_is_refused(
    float8: tuple[ModuleType, Path, dict[str, Tensor]], quantization: Any, message: str
) -> None:
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
