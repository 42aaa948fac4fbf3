"""The table of `weights.py`: for every weight program, what is loaded is what is saved."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from archsmith.compiler.emit.tensors import table
from archsmith.compiler.errors import GraphError
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.model import Param
from archsmith.compiler.ir.moves import swapped
from archsmith.compiler.ir.pick import Pick
from archsmith.compiler.ir.stacked import stacked
from archsmith.compiler.ir.weights import (
    Concat,
    Each,
    Flatten,
    Indexed,
    Program,
    Ref,
    Slice,
    Stack,
    Transpose,
    Unflatten,
)

LAYER = 4


@dataclass(frozen=True)
class Part:
    """As the emitted `weights.py` has it."""

    shape: tuple[int, ...]
    of: Callable[[Any], Any]


@dataclass
class Layer:
    """A layer with some parameters, and the checkpoint that they are made of."""

    programs: Mapping[str, Program]
    which: Any
    tensors: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.wanted = {
            key: torch.from_numpy(program.evaluate(self.which, self._read, {"layer": LAYER}))
            for key, program in self.programs.items()
        }

    def _read(self, name: str, shape: tuple[int, ...]) -> Any:
        if name not in self.tensors:
            self.tensors[name] = np.random.default_rng(list(name.encode())).standard_normal(shape)
        assert self.tensors[name].shape == shape
        return self.tensors[name]

    def empty(self) -> SimpleNamespace:
        """The parameters before anything is loaded; families are lists."""
        made = {
            key: torch.full(value.shape, torch.nan, dtype=value.dtype)
            for key, value in self.wanted.items()
        }
        listed = {key: isinstance(self.programs[key], Each) for key in made}
        return SimpleNamespace(**{k: list(v) if listed[k] else v for k, v in made.items()})

    def held(self, layer: SimpleNamespace) -> Iterator[tuple[str, Any, Part]]:
        params = {key: Param(program, "float64") for key, program in self.programs.items()}
        lines = ["def tensors(layer, i):", *table(params, "layer", self.which, 4)]
        scope: dict[str, Any] = {"Part": Part}
        exec("\n".join(lines), scope)
        for name, view, *parts in scope["tensors"](layer, LAYER):
            yield name, view, parts[0] if parts else Part(tuple(view.shape), lambda whole: whole)

    def check(self) -> None:
        layer = self.empty()
        for name, view, part in list(self.held(layer)):  # all at first, as a package does
            view.copy_(part.of(torch.from_numpy(self.tensors[name])))
        for key, wanted in self.wanted.items():
            found = getattr(layer, key)
            assert torch.equal(torch.stack(found) if isinstance(found, list) else found, wanted)

        saved: dict[str, Any] = {}
        for name, view, part in list(self.held(layer)):
            whole = saved.setdefault(name, torch.full(part.shape, torch.nan, dtype=torch.float64))
            part.of(whole).copy_(view)
        assert saved.keys() == self.tensors.keys()
        for name, whole in saved.items():
            read = ~whole.isnan()
            assert read.any()
            assert torch.equal(whole[read], torch.from_numpy(self.tensors[name])[read])
        kept = sum(int((~whole.isnan()).sum()) for whole in saved.values())
        assert kept == sum(wanted.numel() for wanted in self.wanted.values())


def dims(*sizes: int) -> tuple[Dim, ...]:
    """A size s, and s + 1 as its probe: what confuses them is caught."""
    return tuple(Dim(size, size + 1) for size in sizes)


ZERO, ONE, TWO = map(Dim.of, range(3))
H, K, V, D, E, F = dims(3, 4, 5, 7, 6, 2)
Q = Ref("layers.{layer}.q", (H * K, D))
KV = Ref("layers.{layer}.kv", (H * (K + V), D))
O = Ref("layers.{layer}.o", (D, H * V))  # noqa: E741
GATE, UP = (Ref(f"layers.{{layer}}.{{expert}}.{name}", (F, D)) for name in ("gate", "up"))
FUSED = Unflatten(Concat((GATE, UP), 0), 0, (TWO, F))
HEADS = Unflatten(KV, 0, (H, K + V))
PACKED = Pick(Ref("layers.{layer}.gate_up", (E, D, TWO * F)), "expert")
TURNS = swapped(Unflatten(swapped(PACKED, 0), 0, (F, TWO)), 0)
"""An expert's [2, F, D] of a tensor with columns of gate and up by turns."""

WORKS = {
    "as it is": Q,
    "heads": Unflatten(Q, 0, (H, K)),
    "heads of an output": Unflatten(O, 1, (H, V)),
    "transposed": Transpose(Q, (1, 0)),
    "heads, then transposed": Transpose(Unflatten(Q, 0, (H, K)), (2, 0, 1)),
    "flat again": Flatten(Unflatten(Q, 0, (H, K)), 0),
    "flat after an order": Flatten(Transpose(Unflatten(Q, 0, (H, K)), (0, 2, 1)), 1),
    "joined": Concat((Q, KV), 0),
    "joined on the second axis": Concat((Transpose(Q, (1, 0)), O), 1),
    "joined in each head": Concat((Unflatten(Q, 0, (H, K)), HEADS), 1),
    "joined in each head, flat": Flatten(Concat((Unflatten(Q, 0, (H, K)), HEADS), 1), 0),
    "joined three times": Concat((Concat((Q, KV), 0), Ref("r", (F, D))), 0),
    "experts of their own": Each(GATE, "expert", E),
    "experts in one": Stack(GATE, "expert", E),
    "experts, fused": Stack(FUSED, "expert", E),
    "experts of their own, fused": Each(FUSED, "expert", E),
    "experts, transposed": Stack(Transpose(FUSED, (2, 0, 1)), "expert", E),
    "experts in one matrix": Flatten(Stack(FUSED, "expert", E), 0),
    "experts, transposed in one": Transpose(Stack(FUSED, "expert", E), (1, 3, 0, 2)),
    "experts of a slice": Stack(Slice(GATE, 1, ONE, D - 1), "expert", E),
    "experts of a packed tensor": Each(PACKED, "expert", E),
    "experts of columns by turns": Each(TURNS, "expert", E),
    "experts of every second column": Each(Flatten(Slice(TURNS, 0, ONE, ONE), 0), "expert", E),
    "experts of columns by turns, in one": stacked(Each(TURNS, "expert", E)),
    "experts of a packed tensor, and some of their own": Each(
        Concat((swapped(PACKED, 0), UP), 0), "expert", E
    ),
    "experts of a packed tensor, stacked": Stack(swapped(PACKED, 0), "expert", E),
    "a slice": Slice(Q, 0, ONE, H),
    "a slice of heads": Slice(HEADS, 1, ZERO, K),
    "a slice of a slice": Slice(Slice(Q, 0, ONE, H * K - 1), 0, ONE, H),
    "heads of a slice": Unflatten(Slice(Q, 0, ZERO, H * K), 0, (H, K)),
    "swapped heads": Concat(
        (Slice(HEADS, 0, ONE, ONE), Slice(HEADS, 0, ZERO, ONE), Slice(HEADS, 0, ONE + 1, H - 2)), 0
    ),
}


@pytest.mark.parametrize("which", ["size", "probe"])
@pytest.mark.parametrize("program", WORKS.values(), ids=WORKS)
def test_what_is_loaded_is_what_is_saved(program: Program, which: str) -> None:
    Layer({"p": program}, which).check()


@pytest.mark.parametrize("which", ["size", "probe"])
def test_the_halves_of_a_tensor_may_be_two_parameters(which: str) -> None:
    halves = {"k": Slice(HEADS, 1, ZERO, K), "v": Slice(HEADS, 1, K, V)}
    layer = Layer(halves, which)
    layer.check()
    names = [name for name, _, _ in layer.held(layer.empty())]
    assert names == [f"layers.{LAYER}.kv"] * 2


@pytest.mark.parametrize(
    "program",
    [
        Slice(Concat((Q, KV), 0), 0, ONE, H),
        Slice(Stack(GATE, "expert", E), 0, ONE, ONE),
        Slice(Stack(GATE, "expert", E), 1, ONE, ONE),
        Unflatten(Slice(Concat((Q, KV), 0), 0, ZERO, H * K), 0, (H, K)),
    ],
    ids=str,
)
def test_a_part_of_what_is_joined_is_refused(program: Program) -> None:
    with pytest.raises(GraphError, match="cannot be loaded: a part of what is joined from several"):
        table({"p": Param(program, "float64")}, "layer", "size", 4)


def test_halves_are_parts_by_number() -> None:
    params = {
        "gate_up": Param(Stack(FUSED, "expert", E), "float64"),
        "own": Param(Each(FUSED, "expert", E), "float64"),
    }
    assert table(params, "layer", "size", 4) == [
        '    at = f"layers.{i}"',
        "    for e in range(6):",
        '        yield f"{at}.{e}.gate", layer.gate_up[e, 0]',
        '        yield f"{at}.{e}.up", layer.gate_up[e, 1]',
        '        yield f"{at}.{e}.gate", layer.own[e][0]',
        '        yield f"{at}.{e}.up", layer.own[e][1]',
    ]


def test_experts_are_in_one_loop() -> None:
    params = {
        key: Param(Stack(ref, "expert", E), "float64") for key, ref in (("a", GATE), ("b", UP))
    }
    assert table(params, "layer", "size", 4) == [
        '    at = f"layers.{i}"',
        "    for e in range(6):",
        '        yield f"{at}.{e}.gate", layer.a[e]',
        '        yield f"{at}.{e}.up", layer.b[e]',
    ]


def test_what_is_picked_is_so_by_the_index_of_its_turn() -> None:
    params = {
        "down": Param(Each(swapped(PACKED, 0), "expert", E), "float64"),
        "whole": Param(stacked(Each(swapped(PACKED, 0), "expert", E)), "float64"),
    }
    lines = table(params, "layer", "size", 4)
    assert "Part((6, 7, 4), lambda whole, e=e: whole[e])," in [line.strip() for line in lines]
    assert lines[-1] == '    yield f"{at}.gate_up", layer.whole.permute(0, 2, 1)'


def drawn(seed: int) -> Program:
    """Any program of some shape, every reference read once."""
    draw, numbers = random.Random(seed), count()

    def grow(shape: tuple[int, ...], depth: int, index: str) -> Program:
        rank, axis = len(shape), draw.randrange(len(shape))
        if depth == 0:
            sizes = tuple(map(Dim.of, shape))
            return Ref(f"layers.{{layer}}.{index}t{next(numbers)}", sizes)

        def below(shape: tuple[int, ...], index: str = index) -> Program:
            return grow(shape, depth - 1, index)

        def resized(*sizes: int) -> Program:
            return below((*shape[:axis], *sizes, *shape[axis + 1 :]))

        kinds = ["transpose", "slice"]
        kinds += ["concat"] * (shape[axis] > 1) + ["flatten"] * (rank < 4)
        kinds += ["unflatten"] * (axis + 1 < rank) + ["stack"] * (rank > 1 and not index)
        match draw.choice(kinds):
            case "transpose":
                order = tuple(draw.sample(range(rank), rank))
                before = tuple(shape[order.index(i)] for i in range(rank))
                return Transpose(below(before), order)
            case "slice":
                first, more = draw.randrange(3), draw.randrange(3)
                whole = resized(first + shape[axis] + more)
                return Slice(whole, axis, Dim.of(first), Dim.of(shape[axis]))
            case "concat":
                first = draw.randrange(1, shape[axis])
                return Concat((resized(first), resized(shape[axis] - first)), axis)
            case "flatten":
                factors = [n for n in range(1, shape[axis] + 1) if shape[axis] % n == 0]
                first = draw.choice(factors)
                return Flatten(resized(first, shape[axis] // first), axis)
            case "unflatten":
                pair = shape[axis : axis + 2]
                merged = (*shape[:axis], pair[0] * pair[1], *shape[axis + 2 :])
                return Unflatten(below(merged), axis, tuple(map(Dim.of, pair)))
        return Stack(below(shape[1:], "{expert}."), "expert", Dim.of(shape[0]))

    shape = tuple(draw.choice([1, 2, 3, 4, 6]) for _ in range(draw.randrange(1, 4)))
    return grow(shape, draw.randrange(6), "")


def test_any_program_is_loaded_and_saved_or_refused() -> None:
    refused = []
    for seed in range(500):
        program = drawn(seed)
        try:
            table({"p": Param(program, "float64")}, "layer", "size", 4)
        except GraphError as error:
            refused.append((program, str(error)))
        else:
            Layer({"p": program}, "size").check()
    assert all("cannot be loaded" in why and not _is_plain(program) for program, why in refused)
    assert 0 < len(refused) < 150


def _is_plain(program: Program) -> bool:
    """Whether nothing but joins stands between a program and its tensors: that must load."""
    return isinstance(program, Ref | Concat | Indexed) and all(map(_is_plain, program.parts))
