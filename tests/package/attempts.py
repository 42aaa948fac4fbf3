"""Loading what may be hostile: a model, or why not, which is one typed error."""

from __future__ import annotations

import json
import resource
from collections.abc import Callable
from pathlib import Path
from random import Random
from types import ModuleType
from typing import Any

import torch

from .mutations import of_header

Checkpoint = tuple[ModuleType, Path]
NORM = "model.norm.weight"


def attempt(built: ModuleType, folder: Path) -> tuple[Any, str]:
    """The model of a folder, or None and the message of the one error with which it is refused."""
    try:
        return built.load(folder), ""
    except (ValueError, FileNotFoundError) as error:
        found = error
    said = str(found)
    assert type(found) in (ValueError, FileNotFoundError), repr(found)
    assert str(folder) in said
    assert said.replace("\n", "").isprintable()
    assert len(said) < 50_000
    return None, said


def refused(built: ModuleType, folder: Path) -> str:
    """Why a folder is refused; empty where it is loaded."""
    return attempt(built, folder)[1]


def same(one: Any, other: Any) -> bool:
    """Whether two models are equal to the bit, NaN included."""
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(a.view(torch.uint8), b.view(torch.uint8)) for a, b in pairs)


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def rewrite(file: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    """Edit the header of a file as a tree."""

    def change(text: bytes, _: Random) -> bytes:
        tree = json.loads(text)
        edit(tree)
        return json.dumps(tree).encode()

    file.write_bytes(of_header(file.read_bytes(), Random(0), change))
