"""Running a built package: imported from its folder, in this process."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from .errors import ArchsmithError
from .imported import floating, imported, told
from .tokenizer import Tokenizer, ends


def generate(folder: Path, tokens: str, **options: Any) -> list[int]:
    """The tokens that a package generates after `tokens`, ids separated by commas."""
    return list(stream(folder, _ids(tokens), **options))


def speak(folder: Path, prompt: str, *, weights: Path | None, **options: Any) -> Iterator[str]:
    """The text that a package generates after `prompt`, piece by piece.

    The checkpoint's files say what tokens are and which of them end a text, else the package's.
    """
    folders = [folder] if weights is None else [weights, folder]
    tokenizer = Tokenizer(folders)
    tokens = tokenizer.encode(prompt)
    stops = frozenset(ends(folders))
    made = stream(folder, tokens, weights=weights, **options)
    yield from tokenizer.pieces(tokens, takewhile(lambda token: token not in stops, made))


def stream(
    folder: Path,
    prompt: Sequence[int],
    *,
    weights: Path | None,
    max_new: int,
    temperature: float,
    top_p: float,
    seed: int,
    dtype: str | None,
    device: str,
) -> Iterator[int]:
    """The tokens that a package generates after those of `prompt`, as they come."""
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
        if wrong := [token for token in prompt if token >= module.Config.vocab_size]:
            raise ValueError(f"token {wrong[0]} is outside 0..{module.Config.vocab_size - 1}")
        for token in module.stream(
            model,
            torch.tensor([list(prompt)], device=device),
            max_new_tokens=max_new,
            temperature=temperature,
            top_p=top_p,
            generator=torch.Generator(device).manual_seed(seed),
        ):
            yield int(token)
    except (ValueError, OSError, RuntimeError, AssertionError) as error:  # as torch has it
        raise ArchsmithError(str(error)) from None
    except Exception as error:
        raise ArchsmithError(f"the package fails: {told(error)}") from error


def _ids(text: str) -> list[int]:
    if not re.fullmatch(r"\d{1,18}(,\d{1,18})*", text.replace(" ", "")):
        raise ArchsmithError(f"tokens are ids separated by commas, not {text!r}")
    return [int(item) for item in text.split(",")]
