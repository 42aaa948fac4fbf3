"""From weight programs to `weights.py`: every checkpoint tensor beside the view that holds it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import GraphError
from ..ir.dims import Which
from ..ir.model import Param
from ..ir.weights import Concat, Flatten, Indexed, Program, Ref, Slice, Transpose, Unflatten
from ..schedule.code import Code, name, string
from .layout import statement

INDEX = {"layer": "i", "expert": "e"}
"""The variables that stand for the indices of tensor names."""


@dataclass(frozen=True)
class View:
    """An expression of a tensor, with the indexing that is yet to be written."""

    code: Code
    items: tuple[Any, ...] = ()

    def select(self, axis: int, item: Any) -> View:
        """The view at one index or slice of an axis, counted among the axes that are left."""
        items = list(self.items)
        at = [i for i, old in enumerate(items) if isinstance(old, slice)]
        if axis < len(at) and items[at[axis]] == slice(None):
            items[at[axis]] = item
            return replace(self, items=tuple(items))
        if axis < len(at):
            return View(self.written(), (*(slice(None),) * axis, item))
        missing = axis - len(at)
        return replace(self, items=(*items, *(slice(None),) * missing, item))

    def method(self, method: str, *args: Any) -> View:
        return View(self.written().method(method, *args))

    def written(self) -> Code:
        items = list(self.items)
        while items and items[-1] == slice(None):
            items.pop()
        return self.code[tuple(items)] if items else self.code


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
        case Unflatten(of, axis, into):
            yield from held(of, view.method("flatten", axis, axis + len(into) - 1), which)
        case Flatten(of, axis):
            sizes = tuple(d.at(which) for d in of.shape[axis : axis + 2])
            yield from held(of, view.method("unflatten", axis, sizes), which)
        case Transpose(of, order):
            inverse = tuple(order.index(i) for i in range(len(order)))
            yield from held(of, view.method("permute", *inverse), which)
        case Concat(parts, axis):
            start = 0
            whole = program.shape[axis].at(which)
            for part in parts:
                stop = start + part.shape[axis].at(which)
                span = slice(start or None, stop if stop < whole else None)
                yield from held(part, view.select(axis, span), which)
                start = stop
        case Indexed(body, index, count):
            variable = INDEX[index]
            for inner in held(body, view.select(0, name(variable)), which):
                yield replace(inner, loops=((variable, count.at(which)), *inner.loops))
        case Slice():
            yield _sliced(program, view, which)
        case _:
            raise GraphError(f"{program} cannot be loaded")


def _sliced(program: Program, view: View, which: Which) -> Held:
    """A part of one tensor: what is taken of it is an expression of `whole`."""
    steps: list[Program] = []
    while not isinstance(program, Ref):
        steps.append(program)
        if len(program.parts) != 1 or isinstance(program, Indexed):
            raise GraphError(f"{program} cannot be loaded: a part of what is joined from several")
        program = program.parts[0]
    part = View(name("whole"))
    for step in reversed(steps):
        match step:
            case Slice(_, axis, start, length):
                first = start.at(which)
                part = part.select(axis, slice(first or None, first + length.at(which)))
            case Unflatten(_, axis, into):
                part = part.method("unflatten", axis, tuple(d.at(which) for d in into))
            case Flatten(_, axis):
                part = part.method("flatten", axis, axis + 1)
            case Transpose(_, order):
                part = part.method("permute", *order)
    shape = tuple(d.at(which) for d in program.shape)
    return Held(program.name, view, part, shape)


def table(params: Mapping[str, Param], owner: str, which: Which, indent: int) -> list[str]:
    """Statements that yield all tensors of some parameters of `owner`, experts in one loop."""
    found = [
        item
        for key, param in params.items()
        for item in held(param.program, View(name(f"{owner}.{key}")), which)
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
