"""Tiny `transformers` models of each family, no two sizes alike, and their checkpoints."""

from __future__ import annotations

import copy
import importlib
import warnings
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from .oracle import Float64

FOLDER = Path(__file__).with_name("configurations")
FAMILIES = sorted(file.stem for file in FOLDER.glob("*.py") if file.stem != "configuration")


@dataclass(frozen=True)
class Case:
    """A tiny model: its family, what is special in it, and its configuration's fields."""

    family: str
    title: str
    fields: dict[str, Any] = field(hash=False)

    def __str__(self) -> str:
        return f"{self.family}-{self.title}"


def configurations(family: str) -> ModuleType:
    """Return the module of a family: BASE, what each of its cases CHANGES, and what is WRONG.

    READ_WITH, where it is there, are fields without which others mean nothing.
    """
    return importlib.import_module(f"models.configurations.{family}")


def base(family: str) -> dict[str, Any]:
    """Return the fields of a family's plainest configuration."""
    fields: dict[str, Any] = configurations(family).BASE
    return fields


def cases(*families: str) -> list[Case]:
    """Return the cases of these families, of all when none is named."""
    return [
        Case(family, title, base(family) | changes)
        for family in families or FAMILIES
        for title, changes in configurations(family).CHANGES.items()
    ]


def make(case: Case) -> Any:
    """Return a float64 model of random weights: gains and biases too, which start as 1 and 0."""
    generator = torch.Generator().manual_seed(zlib.crc32(str(case).encode()))
    config = AutoConfig.for_model(case.family, **copy.deepcopy(case.fields))
    with Float64(), warnings.catch_warnings():
        # Without shared experts transformers makes weights that have no elements.
        warnings.filterwarnings("ignore", "Initializing zero-element tensors")
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float64, attn_implementation="eager"
        )
    model.set_experts_implementation("eager")  # grouped matrix products have no float64
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float64)
            if name.endswith("norm.weight"):
                tensor.copy_(1 + 0.3 * noise)
            elif name.endswith(("bias", "embed_tokens.weight")):
                tensor.copy_(0.3 * noise)
            elif noise.numel():
                tensor.copy_(noise / tensor.shape[-1] ** 0.5)
    return model.eval()


def save(case: Case, folder: Path, *, dtype: torch.dtype = torch.float64, shards: int = 1) -> Any:
    """Save a model as a checkpoint of `dtype`, and return it in float64.

    The returned model has the checkpoint's rounded weights. What transformers keeps in float32, as
    some routers, is never stored narrower. `shards` is about how many files there are.
    """
    model = make(case)
    stored = copy.deepcopy(model).to(dtype)
    for (name, tensor), kept in zip(
        model.state_dict().items(), stored.state_dict().values(), strict=True
    ):
        if name.endswith(tuple(stored._keep_in_fp32_modules_strict or ())):
            tensor.copy_(tensor.float())
            owner, _, leaf = name.rpartition(".")
            held = stored.get_submodule(owner)
            with torch.no_grad():
                getattr(held, leaf).data = tensor.to(torch.promote_types(dtype, torch.float32))
        else:
            tensor.copy_(kept)
    size = sum(tensor.nbytes for tensor in stored.state_dict().values())
    stored.save_pretrained(folder, max_shard_size=size if shards == 1 else size // shards)
    return model
