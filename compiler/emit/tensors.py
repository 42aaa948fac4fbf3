"""From weight programs to `weights.py`: every checkpoint tensor beside the view that holds it."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..errors import GraphError
from ..ir.computed import Computed, Rotate, Scale, Times, computed, multiplied, rotated, scaled
from ..ir.dims import ONE, Dim, Which
from ..ir.model import Param
from ..ir.pick import Pick
from ..ir.quantized import BlockScales, InBlocks, inward
from ..ir.weights import Concat, Each, Flatten, Indexed, Program, Ref, Slice, Transpose, Unflatten
from ..schedule.code import Code, as_code, call, name, string, tuple_of
from .layout import statement
from .view import View

INDEX = {"layer": "i", "expert": "e"}
"""The variables that stand for the indices of tensor names."""


@dataclass(frozen=True)
class Held:
    """A checkpoint tensor, the view that holds it or a part of it, and which part."""

    tensor: str
    view: View
    part: View | None = None
    shape: tuple[int, ...] = ()
    steps: tuple[str, ...] = ()
    """What is computed on the way to the view; it cannot be undone."""
    gains: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """The tensors that it is computed with, and their shapes."""
    loops: tuple[tuple[str, int], ...] = ()
    picked: tuple[str, ...] = ()
    """The variables of loops that the part is picked by."""
    stored: InBlocks | None = None
    """What of a tensor in float8 the view holds, where a checkpoint may have it just so."""


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
        case Slice() | Pick():
            yield _taken(program, view, which)
        case Computed():
            nearer = _inward(program)
            if isinstance(nearer, Computed):
                yield _taken(program, view, which)
            else:
                yield from held(nearer, view, which)
        case _:
            raise GraphError(f"{program} cannot be loaded")


def _inward(program: Computed) -> Program:
    """The same program, computed as near to its tensors as it can be."""
    match program:
        case Scale(of, axis, by, offset):
            return scaled(of, axis, by, offset)
        case Rotate(of, axis):
            return rotated(of, axis)
        case Times(of, factor):
            return multiplied(of, factor)
        case InBlocks():
            return inward(program)
    raise GraphError(f"{program} cannot be loaded")


def _taken(program: Program, view: View, which: Which) -> Held:
    """What is made of one tensor: the view holds an expression of `whole`.

    Where nothing computes it is a view itself; else it is one of `given`: the tensor, then gains.
    """
    steps: list[Computed] = []
    picked: list[str] = []
    inner = program
    while not isinstance(inner, Ref):
        steps += [inner] if isinstance(inner, Computed) else []
        picked += [INDEX[inner.index]] if isinstance(inner, Pick) else []
        inner = _inside(inner)
    gains = [step.by for step in reversed(steps) if isinstance(step, Scale)]
    tensors = [_tensor(gain) for gain in gains]
    codes = [name("given")[as_code(i)] for i in range(1 + len(gains))]
    factors = [
        _made(gain, code, which).written() for gain, code in zip(gains, codes[1:], strict=True)
    ]
    part = _made(program, codes[0] if steps else name("whole"), which, factors)
    return Held(
        inner.name,
        view,
        part,
        _shape(inner, which),
        tuple(step.function for step in reversed(steps)),
        tuple((tensor.name, _shape(tensor, which)) for tensor in tensors),
        picked=tuple(picked),
        stored=program if isinstance(program, InBlocks) and _storable(program) else None,
    )


def _storable(program: InBlocks) -> bool:
    """Whether its blocks are those of one tensor in float8, but for axes of one entry."""
    if not program.dtype.startswith("float8") or any(computed(program.of)):
        return False
    (tensor,) = program.of.refs()
    shapes = [[d for d in shape if d != ONE] for shape in (program.of.shape, tensor.shape)]
    if shapes[0] != shapes[1]:
        return False
    numbers = np.arange(math.prod(d.probe for d in tensor.shape))
    moved = program.of.evaluate("probe", lambda _, shape: numbers.reshape(shape), {})
    return np.array_equal(moved.ravel(), numbers)


def _made(program: Program, whole: Code, which: Which, factors: Sequence[Code] = ()) -> View:
    """The expression of a program's one tensor, scaled by `factors`, the inmost first."""
    if isinstance(program, Ref):
        return View.of(whole, len(program.shape))
    rest = factors[:-1] if isinstance(program, Scale) else factors
    part = _made(_inside(program), whole, which, rest)
    match program:
        case Slice(_, axis, start, length):
            first = start.at(which)
            return part.slice(axis, first or None, first + length.at(which))
        case Pick(_, index):
            return part.index(0, name(INDEX[index]))
        case Unflatten(_, axis, into):
            return part.unflatten(axis, tuple(d.at(which) for d in into))
        case Transpose(_, order):
            return part.permute(order)
        case Scale(_, axis, _, offset):
            gain = factors[-1] + as_code(offset) if offset else factors[-1]
            return View.of(call(program.function, part.written(), axis, gain), len(program.shape))
        case Rotate(_, axis):
            return View.of(call(program.function, part.written(), axis), len(program.shape))
        case Times(_, factor):
            timed = call(program.function, part.written(), float(factor))
            return View.of(timed, len(program.shape))
        case InBlocks(_, dtype, block):
            made = call(program.function, part.written(), dtype, block.at(which))
            return View.of(made, len(program.shape))
        case Flatten(_, axis):
            if flat := part.flatten(axis, 2):
                return flat
    raise GraphError(f"{program} cannot be loaded: it is no view of its tensor")


def _inside(program: Program) -> Program:
    """The one program that another is made of, gains aside."""
    if isinstance(program, Computed):
        return program.of
    if len(program.parts) != 1 or isinstance(program, Indexed):
        raise GraphError(f"{program} cannot be loaded: a part of what is joined from several")
    return program.parts[0]


def _tensor(gain: Program) -> Ref:
    """The tensor that a gain is a part of."""
    while not isinstance(gain, Ref):
        if isinstance(gain, Computed):
            raise GraphError(f"{gain} cannot be loaded: a gain is not computed")
        gain = _inside(gain)
    return gain


def _shape(tensor: Ref, which: Which) -> tuple[int, ...]:
    return tuple(d.at(which) for d in tensor.shape)


def table(params: Mapping[str, Param], owner: str, which: Which, indent: int) -> list[str]:
    """Statements that yield all tensors of some parameters of `owner`, experts in one loop."""
    found = [
        item
        for key, param in params.items()
        for item in held(
            param.program, View.of(name(f"{owner}.{key}"), len(param.program.shape)), which
        )
    ]
    read = [tensor for item in found for tensor in (item.tensor, *(gain for gain, _ in item.gains))]
    prefix = common_prefix(read)
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
            text += f", {_part(item, item.part, prefix, which)}"
        lines += statement(text, depth)
    return lines


def _part(item: Held, part: View, prefix: str, which: Which) -> str:
    """How a view is made of its tensor."""
    whole, code = tuple_of(*item.shape).text, part.written()
    # What is picked by an index is bound to the index as it is now, not as it is in the end.
    bound = "".join(f", {variable}={variable}" for variable in item.picked)
    if not item.steps:
        return f"Part({whole}, lambda whole{bound}: {code.text})"
    made = f"Made({whole}, {string(', '.join(item.steps))}, lambda given{bound}: {code.text}"
    gains = [f"({_format(gain, prefix)}, {tuple_of(*shape).text})" for gain, shape in item.gains]
    made += f", ({', '.join(gains)},)" if gains else ""
    if item.stored is not None:
        made += f", block={item.stored.block.at(which)}"
        made += ", scales=True" if isinstance(item.stored, BlockScales) else ""
    return f"{made})"


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
