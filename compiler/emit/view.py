"""Views of a tensor as expressions of PyTorch."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from ..schedule.code import Code


@dataclass(frozen=True)
class View:
    """An expression of a tensor, with the indexing that is yet to be written."""

    code: Code
    joined: tuple[bool, ...]
    """Whether each axis and its next may become one: else flattening them makes a copy."""
    items: tuple[Any, ...] = ()

    @classmethod
    def of(cls, code: Code, rank: int) -> View:
        """A whole tensor, or a part of one that has its axes."""
        return cls(code, (True,) * (rank - 1))

    def slice(self, axis: int, start: int | None, stop: int | None) -> View:
        joined = tuple(old and i + 1 != axis for i, old in enumerate(self.joined))
        return replace(self._select(axis, slice(start, stop)), joined=joined)

    def index(self, axis: int, item: Code) -> View:
        before, after = self.joined[: max(axis - 1, 0)], self.joined[axis + 1 :]
        between = (False,) * (0 < axis < len(self.joined))
        return replace(self._select(axis, item), joined=(*before, *between, *after))

    def unflatten(self, axis: int, sizes: tuple[int, ...]) -> View:
        joined = (*self.joined[:axis], *(True,) * (len(sizes) - 1), *self.joined[axis:])
        return View(self.written().method("unflatten", axis, sizes), joined)

    def flatten(self, axis: int, count: int) -> View | None:
        """`count` axes as one, or None where that is no view."""
        last = axis + count - 1
        if not all(self.joined[axis:last]):
            return None
        joined = (*self.joined[:axis], *self.joined[last:])
        return View(self.written().method("flatten", axis, last), joined)

    def permute(self, order: tuple[int, ...]) -> View:
        joined = tuple(b == a + 1 and self.joined[a] for a, b in pairwise(order))
        return View(self.written().method("permute", *order), joined)

    def written(self) -> Code:
        items = list(self.items)
        while items and items[-1] == slice(None):
            items.pop()
        return self.code[tuple(items)] if items else self.code

    def _select(self, axis: int, item: Any) -> View:
        """The view at one index or slice of an axis, counted among the axes that are left."""
        items = list(self.items)
        at = [i for i, old in enumerate(items) if isinstance(old, slice)]
        whole = axis < len(at) and items[at[axis]] == slice(None)
        from_first = axis < len(at) and isinstance(item, Code) and items[at[axis]].start is None
        if whole or from_first:
            items[at[axis]] = item
            return replace(self, items=tuple(items))
        if axis < len(at):
            return View(self.written(), self.joined, (*(slice(None),) * axis, item))
        missing = axis - len(at)
        return replace(self, items=(*items, *(slice(None),) * missing, item))
