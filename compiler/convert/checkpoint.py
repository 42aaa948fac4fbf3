"""From the layout in which a package holds its parameters back to a checkpoint."""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from ..errors import ArchsmithError, DamagedError
from . import checksums
from .job import Job, copy, digest_of, empty, kept, told
from .output import Output, Shard, index, shards
from .places import Holding, Parameter, by_tensor, parameters
from .sources import Sources


@dataclass(frozen=True)
class ToCheckpoint(Job):
    """Undoes the weight programs; every tensor has the dtype that it came in, if it can be had."""

    @cached_property
    def identity(self) -> Mapping[str, str | int]:
        return {
            "direction": "to a checkpoint",
            "checkpoint": digest_of(self.sources.found, self.texts["config.json"]),
            "package": self.package.weights.LAYOUT,
            "dtype": "as it was" if self.dtype is None else str(self.dtype).removeprefix("torch."),
            "shard size": self.shard_bytes,
        }

    @cached_property
    def sources(self) -> Sources:
        package = self.package
        with told():
            tensors = package.converted.match(self._model, self.source, package.weights.LAYOUT)
            package.files.read_json(self.source / "config.json")
        alone = {name: {name: stored} for name, stored in tensors.items()}
        return Sources(package, package.checkpoint.Found(alone))

    @cached_property
    def shards(self) -> Sequence[Shard]:
        outputs = []
        for name, holders in self._table.items():
            dtype = self._dtypes[name]
            shape = holders[0][1].whole
            outputs.append(
                Output(
                    name,
                    dtype,
                    shape,
                    math.prod(shape) * self._torch(dtype).itemsize,
                    self._torch(dtype).itemsize,
                    partial(self._pieces, name, holders),
                )
            )
        dealt = shards(outputs, self.shard_bytes, "model")
        return dealt if len(dealt) > 1 else [Shard(self.package.files.SINGLE, dealt[0].outputs)]

    @cached_property
    def texts(self) -> Mapping[str, bytes]:
        texts = kept(self.source)
        if len(self.shards) > 1:
            texts[self.package.files.INDEX] = index(self.shards, {}).encode()
        if self._changed:
            config = json.loads(texts["config.json"])
            config.pop("quantization_config", None)
            most = max(self.shards[0].outputs, key=lambda output: output.nbytes)
            dtype = str(self._torch(most.dtype)).removeprefix("torch.")
            config |= {name: dtype for name in ("dtype", "torch_dtype") if name in config}
            texts["config.json"] = (json.dumps(config, indent=2) + "\n").encode()
        return texts

    @property
    def memory(self) -> int:
        def needs(output: Output) -> int:
            spans = [
                (holding.place.end - holding.place.first) * int(parameter.dtype.itemsize)
                for parameter, holding in self._table[output.name]
            ]
            return max(spans) + math.prod(output.shape) * 2 * output.itemsize

        return max(needs(output) for shard in self.shards for output in shard.outputs)

    def begin(self) -> None:
        """Raise `ArchsmithError` where a parameter is computed of a tensor, and not that moved.

        Raises `DamagedError` where the small files or the checksums are not those of the folder.
        """
        self._raise_if(checksums.altered(self.source, self._manifest, lambda count: None))
        noted = {name for s in self._manifest["shards"].values() for name, _, _ in s["tensors"]}
        formats = self._manifest.get("formats", {}).items()
        unlike = {name for name, how in formats if how not in self.package.formats.FLOATS}
        came = unlike | set(self._came)
        if noted != self.sources.found.tensors.keys() or not self._table.keys() <= came:
            raise DamagedError(f"{self.source / checksums.NAME} is of other tensors")
        for holders in self._table.values():
            for parameter, holding in holders:
                if hasattr(holding.part, "gains"):
                    raise ArchsmithError(
                        f"no checkpoint can be made: {parameter.name} holds {holding.tensor} after"
                        f" {holding.part.steps}, which cannot be undone to the bit"
                    )

    def said(self, shards: Mapping[str, Any]) -> Mapping[str, Any]:
        """Raises `DamagedError` for a tensor that came in this dtype and is another now.

        Of one that came in another there is no digest; then all is compared of which it was made.
        """
        if self._changed:
            self._raise_if(checksums.damages(self.source, self._manifest, lambda count: None))
        written = {name: digest for s in shards.values() for name, _, digest in s["tensors"]}
        same = [name for name in written if name not in self._changed]
        for name in same:
            if written[name] != self._came[name]["sha256"]:
                raise DamagedError(
                    f"{name} is not what it was when {self.source} was made; `archsmith verify`"
                    " names the damaged file"
                )
        return {
            "sources": {
                name: {"sha256": digest, "dtype": self._stored[name].dtype}
                for shard in self._manifest["shards"].values()
                for name, _, digest in shard["tensors"]
            },
            "identical": len(same),
            "changed": self._changed,
            "unread": self._manifest["unread"],
        }

    def _raise_if(self, wrong: Iterable[str]) -> None:
        if lines := [f"  {line}" for line in wrong]:
            raise DamagedError("\n".join([f"{self.source} is not what was written", *lines]))

    @cached_property
    def _manifest(self) -> dict[str, Any]:
        return checksums.read(self.source)

    @property
    def _came(self) -> Mapping[str, Any]:
        """The dtype and the digest of each tensor of the checkpoint that was converted."""
        came: Mapping[str, Any] = self._manifest["sources"]
        return came

    def _came_in(self, name: str) -> str:
        """The dtype that a tensor came in, as safetensors names it, or its format."""
        formats: Mapping[str, str] = self._manifest.get("formats", {})
        return formats[name] if name in formats else str(self._came[name]["dtype"])

    @cached_property
    def _stored(self) -> Mapping[str, Any]:
        stored: Mapping[str, Any] = self.sources.found.stored
        return stored

    @cached_property
    def _model(self) -> Any:
        return empty(self.package, self.dtype)

    @cached_property
    def _table(self) -> dict[str, list[tuple[Parameter, Holding]]]:
        """The places of each tensor, and of those that the checkpoint had twice."""
        table = by_tensor(parameters(self.package, self._model))
        copies = self._manifest.get("copies", {})
        return {**table, **{name: table.get(of, []) for name, of in copies.items()}}

    @cached_property
    def _dtypes(self) -> dict[str, str]:
        """The dtype of each tensor as safetensors names it: what was asked for, or what it was."""
        torch: Any = importlib.import_module("torch")
        names = {dtype: name for name, dtype in self.package.files.DTYPES.items()}
        found: dict[str, str] = {}
        for name, holders in self._table.items():
            parameter = holders[0][0]
            held = self._stored[parameter.name].dtype
            came = self._came_in(name)
            if self.dtype is not None:
                found[name] = names[parameter.dtype]
            elif came in self.package.formats.FLOATS and self._torch(held) == torch.promote_types(
                self._torch(came), self._torch(held)
            ):
                found[name] = came
            else:
                found[name] = held
        return found

    @cached_property
    def _changed(self) -> dict[str, str]:
        """What came in another dtype, or was rounded to a narrower one since."""
        changed: dict[str, str] = {}
        for name, dtype in self._dtypes.items():
            came = self._came_in(name)
            if came != dtype:
                changed[name] = f"{came} to {dtype}"
        return changed

    def _torch(self, dtype: str) -> Any:
        return self.package.files.DTYPES[dtype]

    def _pieces(self, name: str, holders: Sequence[tuple[Parameter, Holding]]) -> Iterator[Any]:
        """Put a tensor together, in memory of its own, of what holds it."""
        torch: Any = importlib.import_module("torch")
        whole = torch.empty(holders[0][1].whole, dtype=self._torch(self._dtypes[name]))
        for parameter, holding in holders:
            view = self._view(parameter, holding)
            copy(name, view, whole if holding.part is None else holding.part.of(whole))
            del view
        yield whole.reshape(-1)

    def _view(self, parameter: Parameter, holding: Holding) -> Any:
        """Read the numbers of a parameter that a place lies in."""
        stored = self._stored[parameter.name]
        place = holding.place
        by = self._torch(stored.dtype).itemsize
        count = place.end - place.first if 0 not in place.shape else 0
        near = stored._replace(
            shape=(count,), start=stored.start + place.first * by, size=count * by
        )
        return near.read().as_strided(place.shape, place.strides)
