"""From weight programs to `weights.py`: every checkpoint tensor beside the view that holds it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from ..errors import GraphError
from ..ir.dims import Dim, Which
from ..ir.model import Param
from ..ir.weights import Concat, Each, Flatten, Indexed, Program, Ref, Slice, Transpose, Unflatten
from ..schedule.code import Code, as_code, name, string
from .layout import statement

INDEX = {"layer": "i", "expert": "e"}
"""The variables that stand for the indices of tensor names."""


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
        if axis < len(at) and items[at[axis]] == slice(None):
            items[at[axis]] = item
            return replace(self, items=tuple(items))
        if axis < len(at):
            return View(self.written(), self.joined, (*(slice(None),) * axis, item))
        missing = axis - len(at)
        return replace(self, items=(*items, *(slice(None),) * missing, item))


@dataclass(frozen=True)
class Held:
    """A checkpoint tensor, the view that holds it or a part of it, and which part."""

    tensor: str
    view: View
    part: View | None = None
    shape: tuple[int, ...] = ()
    loops: tuple[tuple[str, int], ...] = ()


def held(program: Program, view: View, which: Which) -> Iterator[Held]:
    """Where the tensors of a program are held, given a view of its result.

    Raises `GraphError` where a program cannot be undone: a slice of what is joined from several.
    """
    match program:
        case Ref(tensor):
            yield Held(tensor, view)
        case Unflatten(Concat(parts, joined), axis, (count, each)) if (
            joined == axis
            and count == Dim.of(len(parts))
            and all(part.shape[axis] == each for part in parts)
        ):
            for i, part in enumerate(parts):
                yield from held(part, view.index(axis, as_code(i)), which)
        case Unflatten(of, axis, into):
            flat = view.flatten(axis, len(into))
            yield from held(of, flat, which) if flat else (_taken(program, view, which),)
        case Flatten(of, axis):
            sizes = tuple(d.at(which) for d in of.shape[axis : axis + 2])
            yield from held(of, view.unflatten(axis, sizes), which)
        case Transpose(of, order):
            inverse = tuple(order.index(i) for i in range(len(order)))
            yield from held(of, view.permute(inverse), which)
        case Concat(parts, axis):
            start = 0
            whole = program.shape[axis].at(which)
            for part in parts:
                stop = start + part.shape[axis].at(which)
                span = view.slice(axis, start or None, stop if stop < whole else None)
                yield from held(part, span, which)
                start = stop
        case Indexed(body, index, count):
            variable = INDEX[index]
            one = view.index(0, name(variable))
            if isinstance(program, Each):  # a list, which takes no further index
                one = View.of(one.written(), len(body.shape))
            for inner in held(body, one, which):
                yield replace(inner, loops=((variable, count.at(which)), *inner.loops))
        case Slice():
            yield _taken(program, view, which)
        case _:
            raise GraphError(f"{program} cannot be loaded")


def _taken(program: Program, view: View, which: Which) -> Held:
    """What is made of one tensor: the view holds an expression of `whole`, itself a view."""
    steps: list[Program] = []
    while not isinstance(program, Ref):
        steps.append(program)
        if len(program.parts) != 1 or isinstance(program, Indexed):
            raise GraphError(f"{program} cannot be loaded: a part of what is joined from several")
        program = program.parts[0]
    part = View.of(name("whole"), len(program.shape))
    for step in reversed(steps):
        match step:
            case Slice(_, axis, start, length):
                first = start.at(which)
                part = part.slice(axis, first or None, first + length.at(which))
            case Unflatten(_, axis, into):
                part = part.unflatten(axis, tuple(d.at(which) for d in into))
            case Flatten(_, axis):
                flat = part.flatten(axis, 2)
                if flat is None:
                    raise GraphError(f"{step} cannot be loaded: it is no view of its tensor")
                part = flat
            case Transpose(_, order):
                part = part.permute(order)
    shape = tuple(d.at(which) for d in program.shape)
    return Held(program.name, view, part, shape)


def table(params: Mapping[str, Param], owner: str, which: Which, indent: int) -> list[str]:
    """Statements that yield all tensors of some parameters of `owner`, experts in one loop."""
    found = [
        item
        for key, param in params.items()
        for item in held(
            param.program, View.of(name(f"{owner}.{key}"), len(param.program.shape)), which
        )
    ]
    prefix = common_prefix([item.tensor for item in found])
    lines: list[str] = []
    if prefix:
        lines += statement(f"at = {_format(prefix, '')}", indent)
    loops: tuple[tuple[str, int], ...] = ()
    for item in found:
        depth = indent + 4 * len(item.loops)
        if item.loops != loops:
            loops = item.loops
            for i, (variable, count) in enumerate(loops):
                lines.append(f"{' ' * (indent + 4 * i)}for {variable} in range({count}):")
        text = f"yield {_format(item.tensor, prefix)}, {item.view.written().text}"
        if item.part is not None:
            whole = f"({', '.join(map(str, item.shape))},)"
            text += f", Part({whole}, lambda whole: {item.part.written().text})"
        lines += statement(text, depth)
    return lines


def common_prefix(tensors: list[str]) -> str:
    """What all tensors of a layer begin with, up to the layer's number."""
    match = re.match(r"[A-Za-z0-9_.]*\{layer\}", tensors[0]) if tensors else None
    prefix = match[0] if match else ""
    return prefix if all(tensor.startswith(f"{prefix}.") for tensor in tensors) else ""


def _format(tensor: str, prefix: str) -> str:
    """A tensor's name as a literal, with its indices as variables."""
    text = "{at}" + tensor[len(prefix) :] if prefix else tensor
    for index, variable in INDEX.items():
        text = text.replace(f"{{{index}}}", f"{{{variable}}}")
    return f'f"{text}"' if "{" in text else string(text)
