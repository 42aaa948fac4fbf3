"""Checkpoints whose packed experts are in MXFP4: what is loaded, and what is refused."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from package.quantized import (
    MXFP4,
    SINGLE,
    configure,
    experts_in_mxfp4,
    numbers,
    store,
    without_mxfp4,
)
from package.tiny import Build, fresh, prompt, tiny_gpt_oss
from safetensors.torch import load_file, save_file
from torch import Tensor

Stored = tuple[ModuleType, Path, dict[str, Tensor]]
UP = "model.layers.1.mlp.experts.gate_up_proj"
BYTE = torch.zeros((), dtype=torch.uint8)


@pytest.fixture
def mxfp4(package: Build, tmp_path: Path) -> Stored:
    """A package of gpt-oss, a folder for `store`, and its tensors, experts in MXFP4."""
    built = package("gpt-oss-20b", tiny_gpt_oss, "tiny_gpt_oss")
    built.save(fresh(built, torch.bfloat16), tmp_path)
    return built, tmp_path, experts_in_mxfp4(load_file(tmp_path / SINGLE))


def test_every_number_times_every_scale(package: Build) -> None:
    """Each byte with each scale, those with which numbers become infinite or subnormal too."""
    built = package("gpt-oss-20b", tiny_gpt_oss, "tiny_gpt_oss")
    blocks = torch.arange(256).byte().reshape(1, 1, 16, 16).expand(2, 256, 16, 16)
    scales = torch.arange(256).byte().reshape(1, 256, 1).repeat(2, 1, 16)
    scales[1] = scales[1].flip(0)
    found = built.mxfp4.Mxfp4().dequantize([blocks, scales])
    assert (found.dtype, found.shape) == (torch.bfloat16, (2, 512, 256))
    wanted = numbers(blocks, scales)
    assert torch.equal(found, wanted.bfloat16())
    assert torch.equal(found.signbit(), wanted.signbit())  # -0 is not 0
    exact = wanted.abs() < 2.0**128
    assert torch.equal(found.double()[exact], wanted[exact])
    assert found.isinf().equal(~exact)
    assert not exact.all()
    assert found[found != 0].abs().min() == 2.0**-128


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_mxfp4_is_loaded_as_it_is(mxfp4: Stored, dtype: torch.dtype) -> None:
    built, folder, tensors = mxfp4
    assert sum(name.endswith("_blocks") for name in tensors) == 4
    store(tensors, folder, MXFP4)
    plain = folder / "plain"
    plain.mkdir()
    save_file(without_mxfp4(tensors), plain / SINGLE)
    (plain / "config.json").write_bytes((folder / "config.json").read_bytes())
    # Nothing there is quantized any more, whatever its configuration says.
    wanted, found = built.load(plain, dtype=dtype), built.load(folder, dtype=dtype)
    for name, parameter in wanted.named_parameters():
        assert torch.equal(found.get_parameter(name), parameter), name
    with torch.no_grad():
        assert torch.equal(found(prompt(built)), wanted(prompt(built)))
    built.save(found, folder / "again")
    again = load_file(folder / "again" / SINGLE)[UP]
    assert torch.equal(again, without_mxfp4(tensors)[UP].to(dtype))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_scales": None}, f"missing (1):\n    {UP}_scales, beside {UP}_blocks in a.safetensors"),
        ({"_blocks": None}, f"missing (1):\n    {UP}_blocks, beside {UP}_scales in b.safetensors"),
        ({"_blocks": None, "_scales": None}, f"missing (1):\n    {UP}"),
        (
            {"_blocks": BYTE.expand(5, 128, 3, 15)},
            f"misshapen (1):\n    {UP}_blocks in a.safetensors: [5, 128, 3, 15], not"
            " [5, 128, 3, 16] for mxfp4",
        ),
        ({"_blocks": BYTE.expand(5, 96, 4, 16)}, "[5, 96, 4, 16], not [5, 128, 3, 16] for mxfp4"),
        ({"_blocks": BYTE.expand(5, 128, 48)}, "[5, 128, 48], not [5, 128, 3, 16] for mxfp4"),
        (
            {"_scales": BYTE.expand(5, 128, 2)},
            f"misshapen (1):\n    {UP}_scales in b.safetensors: [5, 128, 2], not [5, 128, 3] for",
        ),
        (
            {"_scales": torch.ones(5, 128, 3)},
            f"unusable type (1):\n    {UP}_scales in b.safetensors: F32, not U8",
        ),
        (
            {"_blocks": BYTE.char().expand(5, 128, 3, 16)},
            f"unusable type (1):\n    {UP}_blocks in a.safetensors: I8, not U8",
        ),
        (
            {"": torch.ones(5, 96, 128)},
            f"unexpected (2):\n    {UP}_blocks in a.safetensors: U8\n"
            f"    {UP}_scales in b.safetensors: U8",
        ),
        ({"": BYTE.expand(5, 96, 128)}, f"unexpected (1):\n    {UP} in a.safetensors: U8"),
    ],
)
def test_blocks_and_scales_are_those_of_their_tensor(
    mxfp4: Stored, change: dict[str, Tensor | None], message: str
) -> None:
    built, folder, tensors = mxfp4
    for suffix, x in change.items():
        tensors.pop(UP + suffix, None)
        if x is not None:
            tensors[UP + suffix] = x.contiguous()
    store(tensors, folder, MXFP4)
    with pytest.raises(ValueError, match="does not hold this model's weights") as wrong:
        built.load(folder)
    assert message in str(wrong.value)


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        (
            None,
            f"{UP}_blocks in a.safetensors: U8, and config.json has no quantization_config",
        ),
        ({"quant_method": ["mxfp4"]}, "quant_method is ['mxfp4'], of which only 'fp8' and 'mxfp4'"),
        (
            {"quant_method": "fp8", "weight_block_size": [32, 32]},
            f"{UP}_blocks in a.safetensors: U8",
        ),
    ],
)
def test_another_quantization_is_refused(mxfp4: Stored, quantization: Any, message: str) -> None:
    built, folder, tensors = mxfp4
    store(tensors, folder, MXFP4)
    configure(folder, quantization)
    with pytest.raises(ValueError, match=r"config\.json|this model's weights") as wrong:
        built.load(folder)
    assert message in str(wrong.value)


@pytest.mark.parametrize("name", ["model.norm.weight", "lm_head.weight"])
def test_what_is_not_packed_is_not_in_mxfp4(mxfp4: Stored, name: str) -> None:
    built, folder, tensors = mxfp4
    shape = list(tensors.pop(name).shape)
    tensors[f"{name}_blocks"] = BYTE.expand(331, 3, 16).contiguous()
    store(tensors, folder, MXFP4)
    with pytest.raises(ValueError, match="of an unusable type") as wrong:
        built.load(folder)
    assert f"{name}_blocks in a.safetensors: mxfp4, and {shape} is not [experts" in str(wrong.value)


def test_inputs_that_are_no_multiple_of_32(mxfp4: Stored) -> None:
    built, _, tensors = mxfp4
    form = built.mxfp4.Mxfp4()
    wanted = tuple(tuple(tensors[UP + suffix].shape) for suffix in form.suffixes)
    assert form.shapes((5, 96, 128)) == wanted
    with pytest.raises(ValueError, match="100 inputs are not a multiple of 32"):
        form.shapes((5, 100, 128))
