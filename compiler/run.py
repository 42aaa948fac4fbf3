"""Running a built package: imported from its folder, in this process."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

from .errors import ArchsmithError
from .imported import floating, imported, told


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
    if not 0 <= seed < 2**63:
        raise ArchsmithError(f"--seed is a number from 0 to 2**63 - 1, not {seed}")
    module = imported(folder)
    torch: Any = importlib.import_module("torch")
    kind = floating(dtype)
    if weights is not None and not weights.is_dir():
        raise ArchsmithError(f"--weights {weights} is no folder with a checkpoint")
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
    except Exception as error:
        raise ArchsmithError(f"the package fails: {told(error)}") from error
    return [int(token) for token in out[0]]


def _ids(text: str) -> list[int]:
    if not re.fullmatch(r"\d{1,18}(,\d{1,18})*", text.replace(" ", "")):
        raise ArchsmithError(f"tokens are ids separated by commas, not {text!r}")
    return [int(item) for item in text.split(",")]
