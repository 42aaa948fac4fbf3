"""The tensors of a checkpoint, each read when it is wanted, and digested once."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any

from .disk import forget
from .output import octets

ALIGNED = 64
"""Bytes, of which a multiple comes before each tensor in memory."""


@dataclass
class Sources:
    """Reads what a package has found in a checkpoint, into memory that is used again.

    found  the package's `checkpoint.Found`
    """

    package: Any
    found: Any
    digests: dict[str, str] = field(default_factory=dict)
    """The sha256 of each tensor that was read, of its bytes as they are stored."""
    new: list[str] = field(default_factory=list)
    """Those of them that were read since this list was emptied."""
    _last: tuple[str, Any] | None = None
    _memory: Any = None

    def read(self, name: str) -> Any:
        """Return a tensor, dequantized if need be; it holds until the next one is read."""
        if self._last is None or self._last[0] != name:
            self._last = None  # gives back what is not stored as it is used
            self._last = name, self.found.made(self._stored(self.found.tensors[name]))
        return self._last[1]

    def _stored(self, parts: Mapping[str, Any]) -> list[Any]:
        """Read what is stored for a tensor, one behind the other."""
        torch: Any = importlib.import_module("torch")
        firsts = [0, *accumulate(-(-stored.size // ALIGNED) * ALIGNED for stored in parts.values())]
        if self._memory is None or len(self._memory) < firsts[-1]:
            self._memory = None  # gives the smaller back before it takes the larger
            self._memory = torch.empty(firsts[-1], dtype=torch.uint8)
        tensors = []
        for first, (name, stored) in zip(firsts, parts.items(), strict=False):
            held = self._memory[first : first + stored.size]
            stored.read_into(octets(held))
            with stored.file.open("rb") as file:
                forget(file, stored.start, stored.size)
            tensor = held.view(self.package.files.DTYPES[stored.dtype]).reshape(stored.shape)
            self._digest(name, tensor)
            tensors.append(tensor)
        return tensors

    def _digest(self, name: str, tensor: Any) -> None:
        if name not in self.digests:
            self.digests[name] = hashlib.sha256(octets(tensor)).hexdigest()
            self.new.append(name)
