"""The tensors of a checkpoint, each read when it is wanted, and digested once."""

from __future__ import annotations

import hashlib
import importlib
from dataclasses import dataclass, field
from typing import Any

from .disk import forget
from .output import octets


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
        """Return a tensor, in float32 where it is stored in float8; it holds until the next one."""
        if self._last is None or self._last[0] != name:
            self._last = None  # gives back what is not stored as it is used
            tensor = self._stored(name)
            if name in self.found.scales:
                scale = self.found.scales[name].read()
                self._digest(name + self.package.float8.SCALE, scale)
                tensor = self.package.float8.dequantize(tensor, scale, self.found.block)
            self._last = name, tensor
        return self._last[1]

    def _stored(self, name: str) -> Any:
        torch: Any = importlib.import_module("torch")
        stored = self.found.tensors[name]
        if self._memory is None or len(self._memory) < stored.size:
            self._memory = None  # gives the smaller back before it takes the larger
            self._memory = torch.empty(stored.size, dtype=torch.uint8)
        held = self._memory[: stored.size]
        stored.read_into(octets(held))
        with stored.file.open("rb") as file:
            forget(file, stored.start, stored.size)
        tensor = held.view(self.package.files.DTYPES[stored.dtype]).reshape(stored.shape)
        self._digest(name, tensor)
        return tensor

    def _digest(self, name: str, tensor: Any) -> None:
        if name not in self.digests:
            self.digests[name] = hashlib.sha256(octets(tensor)).hexdigest()
            self.new.append(name)
