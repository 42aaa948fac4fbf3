"""Safetensors that are written a piece at a time, in files of about one size."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from .disk import settle, whole

ALIGNMENT = 64  # bytes, as torch's memory on a CPU has it
UNSETTLED = 2**28
"""Bytes that may wait in memory for the disk: without a limit, all memory would fill up."""


@dataclass(frozen=True)
class Output:
    """A tensor to write: how safetensors has it, and the pieces that it is made of.

    pieces  one-dimensional tensors of torch, in the memory's order; each is used before the next
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    nbytes: int
    itemsize: int
    pieces: Callable[[], Iterator[Any]]


class Shard(NamedTuple):
    """A file and the tensors in it, in the order of their bytes."""

    file: str
    outputs: list[Output]

    @property
    def header(self) -> bytes:
        """What the file begins with (https://github.com/huggingface/safetensors, "Format")."""
        entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        at = 0
        for output in self.outputs:
            offsets = [at, at := at + output.nbytes]
            entries[output.name] = {
                "dtype": output.dtype,
                "shape": list(output.shape),
                "data_offsets": offsets,
            }
        text = json.dumps(entries, separators=(",", ":")).encode()
        # Tensors then begin where those in memory do: what is mapped is computed with alike.
        text += b" " * (-(len(text) + 8) % ALIGNMENT)
        return len(text).to_bytes(8, "little") + text

    @property
    def size(self) -> int:
        return len(self.header) + sum(output.nbytes for output in self.outputs)

    def write(self, folder: Path, advance: Callable[[int], None]) -> dict[str, Any]:
        """Write the file; returns its size, and the sha256 of its header and of each tensor."""
        tensors: list[tuple[str, int, str]] = []
        waiting = 0
        with whole(folder / self.file) as file, ThreadPoolExecutor(1) as beside:
            file.write(header := self.header)
            for output in self.outputs:
                digest = hashlib.sha256()
                for piece in output.pieces():
                    held = octets(piece)
                    digested = beside.submit(digest.update, held)
                    file.write(held)
                    digested.result()  # before its memory is used again
                    advance(len(held))
                    waiting += len(held)
                    if waiting > UNSETTLED:
                        settle(file)
                        waiting = 0
                tensors.append((output.name, output.nbytes, digest.hexdigest()))
        return {
            "size": self.size,
            "header": [len(header), hashlib.sha256(header).hexdigest()],
            "tensors": [list(tensor) for tensor in tensors],
        }


def shards(outputs: Iterable[Output], most: int, stem: str) -> list[Shard]:
    """Deal tensors to files of at most `most` bytes, or of one tensor; wide numbers come first."""
    dealt: list[list[Output]] = [[]]
    size = 0
    for output in outputs:
        if dealt[-1] and size + output.nbytes > most:
            dealt.append([])
            size = 0
        dealt[-1].append(output)
        size += output.nbytes
    return [
        Shard(
            f"{stem}-{i:05d}-of-{len(dealt):05d}.safetensors",
            sorted(some, key=lambda output: -output.itemsize),
        )
        for i, some in enumerate(dealt, 1)
    ]


def index(shards: Sequence[Shard], metadata: Mapping[str, Any]) -> str:
    """The text of the JSON that says in which file each tensor is."""
    total = sum(output.nbytes for shard in shards for output in shard.outputs)
    places = {output.name: shard.file for shard in shards for output in shard.outputs}
    said = {
        "metadata": {"total_size": total, **metadata},
        "weight_map": dict(sorted(places.items())),
    }
    return json.dumps(said, indent=2) + "\n"


def octets(tensor: Any) -> memoryview:
    """The bytes of a contiguous tensor of torch."""
    torch: Any = importlib.import_module("torch")
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())
