"""Tables of measured tiles: what `archsmith tune` writes and `build` reads, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from io import StringIO
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, ValidationError
from ruamel.yaml import YAML

from ..spec.diagnostics import Diagnostic, SpecError
from ..spec.source import KeyPath, Source

Address: TypeAlias = tuple[str, str, tuple[int, ...]]
"""A kernel's name, the dtype of its first operand, and the sizes that its tiles depend on."""
Options: TypeAlias = Mapping[str, int]
"""What a kernel is compiled with: its constants, `num_warps`, `num_stages`."""
Tiles: TypeAlias = Mapping[Address, Mapping[int | None, Options]]
"""Address -> up to how many rows (None: any number) -> what was quickest."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class Tile(_Strict):
    """What was measured for calls of up to so many rows."""

    rows: int | None
    """None: any number."""
    options: dict[str, int]
    """Of the quickest candidate."""
    calls: list[list[int]]
    """Batch, new tokens and context of each call that was timed."""
    us: list[float]
    """Microseconds of each call with these options."""
    default_us: list[float]
    """The same with the options that the roofline puts first."""


class Measured(_Strict):
    """The tiles of one kernel at some sizes."""

    kernel: str
    dtype: str
    sizes: list[int]
    tiles: list[Tile]

    @property
    def address(self) -> Address:
        return self.kernel, self.dtype, tuple(self.sizes)


class Table(_Strict):
    """What was measured on one card, for one target."""

    tuned: Literal[1] = 1
    """Of this form, the version."""
    target: str
    card: str
    driver: str
    torch: str
    triton: str
    date: str
    """Of the day on which it was begun, as 2026-11-28."""
    kernels: list[Measured]

    @classmethod
    def of(cls, source: Source) -> Table:
        """Read a table; raises `SpecError` with every mistake and its place."""
        found = list(source.mistakes)
        try:
            table = cls.model_validate(source.tree)
        except ValidationError as error:
            for line in error.errors():
                path: KeyPath = tuple(line["loc"])
                said = line["msg"].removeprefix("Input ").removeprefix("Extra inputs ")
                help = "`archsmith tune` writes tables; measure anew where this one was edited"
                place = source.key(path) if line["type"] == "extra_forbidden" else None
                place = place or source.value(path)
                found.append(Diagnostic("E0401", f"{_label(path)} {said}", place, help))
        if found:
            raise SpecError(source, found)
        return table

    @property
    def tiles(self) -> Tiles:
        return {
            entry.address: {tile.rows: tile.options for tile in entry.tiles}
            for entry in self.kernels
        }

    def adding(self, address: Address, tile: Tile) -> Table:
        """This table and one tile more, in place of what it has for as many rows."""
        kernel, dtype, sizes = address
        others = [entry for entry in self.kernels if entry.address != address]
        here = [entry for entry in self.kernels if entry.address == address]
        tiles = [t for entry in here for t in entry.tiles if t.rows != tile.rows] + [tile]
        tiles.sort(key=lambda t: (t.rows is None, t.rows or 0))
        entry = Measured(kernel=kernel, dtype=dtype, sizes=list(sizes), tiles=tiles)
        kernels = sorted([*others, entry], key=lambda e: e.address)
        return self.model_copy(update={"kernels": kernels})

    def text(self) -> str:
        """As YAML."""
        yaml = YAML(typ="safe", pure=True)
        yaml.default_flow_style = None
        yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
        yaml.width = 1 << 16
        file = StringIO()
        yaml.dump(self.model_dump(), file)
        return file.getvalue()


def merged(tables: Iterable[Table], target: str) -> dict[Address, dict[int | None, Options]]:
    """What tables say of a target; of two that speak of the same calls, the later is heard."""
    found: dict[Address, dict[int | None, Options]] = {}
    for table in tables:
        if table.target == target:
            for where, tiles in table.tiles.items():
                found.setdefault(where, {}).update(tiles)
    return found


def _label(path: tuple[Any, ...]) -> str:
    """What to call a place of a table."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".") or "a table"
