"""Running a built package: imported from its folder, in this process."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from .errors import ArchsmithError, EnvironmentMissing


def generate(
    folder: Path,
    tokens: str,
    *,
    weights: Path | None,
    max_new: int,
    temperature: float,
    top_p: float,
    seed: int,
    dtype: str | None,
    device: str,
) -> list[int]:
    """The tokens that a package generates after `tokens`, ids separated by commas."""
    prompt = _ids(tokens)
    folder = folder.resolve()
    if not (folder / "model.py").is_file():
        raise ArchsmithError(f"{folder} holds no package; `archsmith build` makes one")
    try:
        torch: Any = importlib.import_module("torch")
    except ImportError as error:
        raise EnvironmentMissing(f"running a package needs torch: {error}") from None
    sys.path.insert(0, str(folder.parent))
    module = importlib.import_module(folder.name)
    kind = None if dtype is None else getattr(torch, dtype, None)
    if dtype is not None and not isinstance(kind, torch.dtype):
        raise ArchsmithError(f"torch has no dtype {dtype!r}")
    try:
        torch.manual_seed(seed)
        if weights is not None:
            model = module.load(weights, device=device, dtype=kind)
        else:
            config = module.Config() if kind is None else module.Config(dtype=kind)
            model = module.Model(config).to(device)
        out = module.generate(
            model,
            torch.tensor([prompt], device=device),
            max_new_tokens=max_new,
            temperature=temperature,
            top_p=top_p,
            generator=torch.Generator(device).manual_seed(seed),
        )
    except (ValueError, OSError, RuntimeError, AssertionError) as error:  # as torch has it
        raise ArchsmithError(str(error)) from None
    return [int(token) for token in out[0]]


def _ids(text: str) -> list[int]:
    try:
        return [int(item) for item in text.split(",")]
    except ValueError:
        raise ArchsmithError(f"tokens are ids separated by commas, not {text!r}") from None
