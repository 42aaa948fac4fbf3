"""Which of the modules that may hold a peer's functions is installed: the first of them that is."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType


def first(modules: Sequence[str]) -> str | None:
    """Its name, or None where none is. Nothing is imported."""
    return next(filter(_is_there, modules), None)


def load(modules: Sequence[str]) -> ModuleType:
    """Import it; raises `ImportError` where none is."""
    name = first(modules)
    if name is None:
        raise ImportError(f"none of {', '.join(modules)} is installed")
    return importlib.import_module(name)


def _is_there(module: str) -> bool:
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not rest:
        return spec is not None
    places = [Path(folder, *rest) for folder in spec.submodule_search_locations or ()]
    return any(place.is_dir() or place.with_suffix(".py").is_file() for place in places)
