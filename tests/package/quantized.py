"""Checkpoints in float8 and MXFP4, written and read without the code that is tested."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
BLOCK = [16, 24]  # no size of a tiny model is a multiple of both
MXFP4 = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
STORED = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic"}


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


def quantized(weight: Tensor, block: list[int]) -> tuple[Tensor, Tensor]:
    """A weight in float8, and its scales: the largest of each block becomes 448."""
    n, k = (-(-size // by) for size, by in zip(weight.shape, block, strict=True))
    scale = torch.empty(n, k)
    stored = torch.empty(weight.shape, dtype=torch.float8_e4m3fn)
    for i in range(n):
        for j in range(k):
            rows = slice(i * block[0], (i + 1) * block[0])
            at = rows, slice(j * block[1], (j + 1) * block[1])
            scale[i, j] = weight[at].abs().max() / 448
            stored[at] = (weight[at] / scale[i, j]).clamp(-448, 448).to(torch.float8_e4m3fn)
    return stored, scale


def projections_in_float8(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint with those in float8 that DeepSeek-V3 has so."""
    found = {name: x for name, x in tensors.items() if "proj" not in name}
    for name in tensors.keys() - found.keys():
        found[name], found[f"{name}_scale_inv"] = quantized(tensors[name].float(), BLOCK)
    return dict(sorted(found.items()))


def without_float8(tensors: dict[str, Tensor], block: list[int]) -> dict[str, Tensor]:
    """The tensors of a checkpoint with float32 for what is in float8."""
    found = {name: x for name, x in tensors.items() if not name.endswith("_scale_inv")}
    for name in [name for name in found if f"{name}_scale_inv" in tensors]:
        found[name] = dequantized(found[name], tensors[f"{name}_scale_inv"], block)
    return found


def numbers(blocks: Tensor, scales: Tensor) -> Tensor:
    """float64 [E, K, N] of MXFP4 [E, N, K / 32, 16], element by element.

    OCP Microscaling Formats v1.0, tables 5 and 7; but 255 is 2 ** 128, as in transformers.
    """
    positive = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0]
    table = torch.tensor([*positive, *(-x for x in positive)], dtype=torch.float64)
    values = torch.stack((table[(blocks % 16).long()], table[(blocks // 16).long()]), -1)
    power = torch.tensor([2.0 ** (byte - 127) for byte in range(256)], dtype=torch.float64)
    wide = values.flatten(-2) * power[scales.long()].unsqueeze(-1)
    return wide.flatten(-2).mT


def experts_in_mxfp4(tensors: dict[str, Tensor], seed: int = 5) -> dict[str, Tensor]:
    """The tensors of a checkpoint with random packed weights of experts in MXFP4."""
    draw = torch.Generator().manual_seed(seed)
    found: dict[str, Tensor] = {}
    for name, x in tensors.items():
        if not name.endswith((".gate_up_proj", ".down_proj")):
            found[name] = x
            continue
        experts, inputs, outputs = x.shape
        shape = (experts, outputs, inputs // 32)
        blocks = torch.randint(256, (*shape, 16), generator=draw)
        scales = torch.randint(118, 126, shape, generator=draw)
        found |= {f"{name}_blocks": blocks.byte(), f"{name}_scales": scales.byte()}
    return found


def without_mxfp4(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a checkpoint with bfloat16 for what is in MXFP4."""
    found: dict[str, Tensor] = {}
    for name, x in tensors.items():
        if name.endswith("_blocks"):
            stem = name.removesuffix("_blocks")
            found[stem] = numbers(x, tensors[f"{stem}_scales"]).bfloat16().contiguous()
        elif not name.endswith("_scales"):
            found[name] = x
    return found


def store(tensors: dict[str, Tensor], folder: Path, quantization: Any = None) -> None:
    """Write a checkpoint, in float8 if nothing is said, in two files: the scales apart."""
    scales = ("_scale_inv", "_scales")
    places = {name: f"{'ab'[name.endswith(scales)]}.safetensors" for name in tensors}
    for file in set(places.values()):
        save_file({name: x for name, x in tensors.items() if places[name] == file}, folder / file)
    (folder / SINGLE).unlink(missing_ok=True)
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    configure(folder, quantization or STORED | {"weight_block_size": BLOCK})


def configure(folder: Path, quantization: Any) -> None:
    """Let a folder's configuration say how its weights are quantized."""
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config))
