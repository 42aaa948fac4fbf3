"""Where the parameters of a package hold the tensors of a checkpoint."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ..errors import GraphError


class Place(NamedTuple):
    """A box of a parameter's numbers, which stand in a row: the first, the sizes, the strides."""

    first: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def end(self) -> int:
        """One behind the last number."""
        last = ((n - 1) * by for n, by in zip(self.shape, self.strides, strict=True))
        return 1 + self.first + sum(last)


class Holding(NamedTuple):
    """A tensor of a checkpoint, the place that holds it or a part of it, and which part.

    part  the package's: `shape` of the whole tensor, and `of(tensor)`; None for all of it
    """

    tensor: str
    place: Place
    part: Any

    @property
    def whole(self) -> tuple[int, ...]:
        """The shape of the tensor."""
        shape: tuple[int, ...] = self.place.shape if self.part is None else self.part.shape
        return shape


class Span(NamedTuple):
    """Numbers of a parameter, from `first` on, that are made together: their places interlock."""

    first: int
    end: int
    holdings: list[Holding]


@dataclass(frozen=True)
class Parameter:
    """A parameter: its shape, torch's dtype, and what it holds."""

    name: str
    shape: tuple[int, ...]
    dtype: Any
    holdings: Sequence[Holding]

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * int(self.dtype.itemsize)

    def spans(self) -> list[Span]:
        """All its numbers, in their order. Raises `GraphError` where some are of no tensor."""
        spans: list[Span] = []
        held = (h for h in self.holdings if 0 not in h.place.shape)
        for holding in sorted(held, key=lambda h: (h.place.first, h.place.end)):
            first, end = holding.place.first, holding.place.end
            if spans and first < spans[-1].end:
                last = spans.pop()
                spans.append(Span(last.first, max(end, last.end), [*last.holdings, holding]))
            else:
                spans.append(Span(first, end, [holding]))
        ends = [0, *(span.end for span in spans)]
        if ends != [*(span.first for span in spans), self.size]:
            raise GraphError(f"{self.name} is not filled by the tensors that it holds")
        return spans


def parameters(package: Any, model: Any) -> list[Parameter]:
    """Return the parameters of a package's model, which may be on the meta device, in its order."""
    held = model.state_dict()
    owners = {tensor.untyped_storage()._cdata: name for name, tensor in held.items()}
    holdings: defaultdict[str, list[Holding]] = defaultdict(list)
    for tensor, view, *part in package.weights.tensors(model):
        place = Place(view.storage_offset(), tuple(view.shape), view.stride())
        owner = owners[view.untyped_storage()._cdata]
        holdings[owner].append(Holding(tensor, place, part[0] if part else None))
    return [
        Parameter(name, tuple(tensor.shape), tensor.dtype, holdings[name])
        for name, tensor in held.items()
    ]


def by_tensor(parameters: Sequence[Parameter]) -> Mapping[str, list[tuple[Parameter, Holding]]]:
    """Return the places of each tensor of the checkpoint."""
    table: defaultdict[str, list[tuple[Parameter, Holding]]] = defaultdict(list)
    for parameter, holding in _holdings(parameters):
        table[holding.tensor].append((parameter, holding))
    return table


def _holdings(parameters: Sequence[Parameter]) -> Iterator[tuple[Parameter, Holding]]:
    for parameter in parameters:
        for holding in parameter.holdings:
            yield parameter, holding
