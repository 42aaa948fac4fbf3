"""From a checkpoint to the layout in which a package holds its parameters."""

from __future__ import annotations

import importlib
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from ..errors import ArchsmithError
from .job import Job, copy, digest_of, empty, kept, told
from .output import Output, Shard, index, shards
from .places import Holding, Parameter, Span, parameters
from .sources import Sources


@dataclass(frozen=True)
class ToLayout(Job):
    """Evaluates the weight programs once, so that the package's `load` has only files to map."""

    @cached_property
    def identity(self) -> Mapping[str, str | int]:
        return {
            "direction": "to a package",
            "checkpoint": digest_of(self.sources.found, self.texts["config.json"]),
            "package": self.package.weights.LAYOUT,
            "dtype": str(self._model.dtype).removeprefix("torch."),
            "shard size": self.shard_bytes,
        }

    @cached_property
    def sources(self) -> Sources:
        if self.package.converted.is_converted(self.source):
            raise ArchsmithError(f"{self.source} is converted; --to-hf makes a checkpoint of it")
        with told():
            return Sources(self.package, self.package.weights.find(self._model, self.source))

    @cached_property
    def shards(self) -> Sequence[Shard]:
        names = {dtype: name for name, dtype in self.package.files.DTYPES.items()}
        outputs = [
            Output(
                parameter.name,
                names[parameter.dtype],
                parameter.shape,
                parameter.nbytes,
                parameter.dtype.itemsize,
                partial(self._pieces, parameter, spans),
            )
            for parameter, spans in self._parameters
        ]
        return shards(outputs, self.shard_bytes, "weights")

    @cached_property
    def texts(self) -> Mapping[str, bytes]:
        said: dict[str, Any] = {"layout": self.package.weights.LAYOUT}
        if self._narrow:
            said["stored"] = self._narrow
        placed = index(self.shards, said)
        return kept(self.source) | {self.package.converted.INDEX: placed.encode()}

    @property
    def _narrow(self) -> dict[str, str]:
        """The dtypes of tensors that are held wider than the model is, where they are narrower."""
        names = {dtype: name for name, dtype in self.package.files.DTYPES.items()}
        found = self.sources.found
        return {
            holding.tensor: found.stored[holding.tensor].dtype
            for parameter, _ in self._parameters
            for holding in parameter.holdings
            if parameter.dtype != self._model.dtype
            and not hasattr(holding.part, "gains")  # of what is computed no dtype is to be had back
            and not found.is_quantized(holding.tensor)
            and found.stored[holding.tensor].dtype != names[parameter.dtype]
        }

    @cached_property
    def rounded(self) -> Mapping[str, str]:
        torch: Any = importlib.import_module("torch")
        names = {dtype: name for name, dtype in self.package.files.DTYPES.items()}
        found = self.sources.found
        rounded: dict[str, str] = {}
        for parameter, spans in self._parameters:
            for holding in (holding for span in spans for holding in span.holdings):
                if found.is_quantized(holding.tensor):
                    continue
                stored = found.stored[holding.tensor].dtype
                came = self.package.files.DTYPES[stored]
                if 1 in (came.itemsize, parameter.dtype.itemsize):  # as it came, or by a lossy pass
                    continue
                if torch.promote_types(came, parameter.dtype) != parameter.dtype:
                    rounded[holding.tensor] = f"{stored} to {names[parameter.dtype]}"
        return rounded

    @property
    def memory(self) -> int:
        found = self.sources.found
        needs = {
            name: sum(int(stored.size) for stored in parts.values())
            for name, parts in found.tensors.items()
        }
        shapes = {h.tensor: h.whole for held, _ in self._parameters for h in held.holdings}
        for name, shape in shapes.items():
            if found.is_quantized(name):  # and stands there dequantized as well
                needs[name] += math.prod(shape) * found.format.dtype.itemsize
        return max(needs.values()) + self._largest_span

    def begin(self) -> None:
        """Raise `ArchsmithError` where a tensor differs from the one that it is to be a copy of."""
        torch: Any = importlib.import_module("torch")
        found = self.sources.found
        for name, original in self._copies.items():
            for tensor in (original, name):
                self.sources.read(tensor)
            stored = [
                [
                    (part.dtype, self.sources.digests[of])
                    for of, part in found.tensors[tensor].items()
                ]
                for tensor in (name, original)
            ]
            if stored[0] == stored[1]:
                continue
            copy, first = (found.read(tensor) for tensor in (name, original))
            if not torch.equal(first.to(self._model.dtype), copy.to(self._model.dtype)):
                raise ArchsmithError(
                    f"{name} differs from {original}, which this model takes it to equal"
                )

    def said(self, shards: Mapping[str, Any]) -> Mapping[str, Any]:
        found = self.sources.found
        stored = found.stored
        return {
            "layout": self.package.weights.LAYOUT,
            "sources": {
                name: {"sha256": digest, "dtype": stored[name].dtype}
                for name, digest in self.sources.digests.items()
            },
            "formats": {
                name: str(found.format) for name in found.tensors if found.is_quantized(name)
            },
            "copies": self._copies,
            "unread": self._unread(stored),
        }

    @cached_property
    def _model(self) -> Any:
        return empty(self.package, self.dtype)

    @cached_property
    def _parameters(self) -> list[tuple[Parameter, list[Span]]]:
        return [(held, held.spans()) for held in parameters(self.package, self._model)]

    @property
    def _largest_span(self) -> int:
        return max(
            (span.end - span.first) * int(parameter.dtype.itemsize)
            for parameter, spans in self._parameters
            for span in spans
        )

    @cached_property
    def _memory(self) -> Any:
        torch: Any = importlib.import_module("torch")
        return torch.empty(self._largest_span, dtype=torch.uint8)

    @cached_property
    def _copies(self) -> dict[str, str]:
        """The tensors that the checkpoint has twice."""
        copies: dict[str, str] = self.package.weights.COPIES
        return {name: of for name, of in copies.items() if name in self.sources.found.tensors}

    def _unread(self, read: Mapping[str, Any]) -> list[str]:
        """The tensors of the checkpoint that the model has no use for."""
        held = self.package.checkpoint.gather(
            self.package.files.shards(self.source), defaultdict(list)
        )
        return sorted(name for name in held if name not in read)

    def _pieces(self, parameter: Parameter, spans: Sequence[Span]) -> Iterator[Any]:
        """Make a parameter a span at a time, in the memory of the one before."""
        for span in spans:
            nbytes = (span.end - span.first) * int(parameter.dtype.itemsize)
            made = self._memory[:nbytes].view(parameter.dtype)
            for holding in span.holdings:
                place = holding.place
                view = made.as_strided(place.shape, place.strides, place.first - span.first)
                self._fill(view, holding)
            yield made

    def _fill(self, view: Any, holding: Holding) -> None:
        part = holding.part
        if hasattr(part, "gains"):  # what is computed reads them first: they may stand anywhere
            table = {holding.tensor: [(view, part)]}
            table = self.package.computed.read_gains(table, Aside(self.sources))
            [(_, part)] = table[holding.tensor]
        tensor = self.sources.read(holding.tensor)
        given = tensor if part is None else part.of(tensor)
        copy(holding.tensor, given, view)


@dataclass(frozen=True)
class Aside:
    """Tensors that outlast the reading of the next one, as few and small ones may."""

    sources: Sources

    @property
    def tensors(self) -> Mapping[str, Any]:
        return self.sources.found.tensors  # type: ignore[no-any-return]

    def read(self, name: str) -> Any:
        return self.sources.read(name).clone()
