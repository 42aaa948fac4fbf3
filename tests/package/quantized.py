"""Checkpoints in float8, written and read without the code that is tested."""

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


def store(tensors: dict[str, Tensor], folder: Path) -> None:
    """Write a checkpoint in two files, the scales apart from what they scale."""
    places = {name: f"{'ab'[name.endswith('scale_inv')]}.safetensors" for name in tensors}
    for file in set(places.values()):
        save_file({name: x for name, x in tensors.items() if places[name] == file}, folder / file)
    (folder / SINGLE).unlink(missing_ok=True)
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    configure(folder, STORED | {"weight_block_size": BLOCK})


def configure(folder: Path, quantization: Any) -> None:
    """Let a folder's configuration say how its weights are quantized."""
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = quantization
    (folder / "config.json").write_text(json.dumps(config))
