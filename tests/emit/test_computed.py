"""Weights that are computed: what a package loads is what their programs say, rounded once."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from archsmith.compiler.emit.environment import render
from archsmith.compiler.emit.tensors import table
from archsmith.compiler.errors import GraphError
from archsmith.compiler.ir.computed import Rotate, Scale, Times, multiplied, rotated, scaled
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.model import Param
from archsmith.compiler.ir.quantized import BlockScales, Quantize
from archsmith.compiler.ir.weights import (
    Concat,
    Each,
    Flatten,
    Program,
    Ref,
    Slice,
    Stack,
    Transpose,
    Unflatten,
)
from archsmith.compiler.plugins import Registry

A, B, C = Dim(12, 4), Dim(6, 3), Dim(10, 5)
PAIR = (Dim(4, 2), Dim(3, 2))
W, V = Ref("layer.{layer}.w", (A, B)), Ref("layer.{layer}.v", (C, B))
G, H = Ref("layer.{layer}.g", (A,)), Ref("layer.{layer}.h", (B,))
EXPERT = Ref("layer.{layer}.expert.{expert}.w", (A, B))
AFTER = Dim(6, 2)

PROGRAMS = {
    "scaled": scaled(W, 1, H),
    "with an offset": scaled(W, 0, G, 1.0),
    "turned": rotated(W, 0),
    "as heads": scaled(Unflatten(W, 0, PAIR), 2, H),
    "along a part of an axis": Scale(Unflatten(W, 0, PAIR), 0, Ref("layer.{layer}.p", PAIR[:1])),
    "across": rotated(scaled(Transpose(W, (1, 0)), 0, H), 1),
    "flat again": scaled(Flatten(Unflatten(W, 0, PAIR), 0), 0, G),
    "both ways": rotated(scaled(scaled(W, 1, H), 0, G, 1.0), 0),
    "turned, then scaled": scaled(Rotate(W, 1), 1, H),
    "joined": scaled(Concat((W, V), 0), 1, H),
    "a part turned": Concat(
        (Rotate(Slice(scaled(W, 1, H), 0, Dim.of(0), B), 0), Slice(W, 0, B, A - B)), 0
    ),
    "a gain in parts": scaled(Concat((W, V), 0), 0, Ref("layer.{layer}.all", (A + C,))),
    "a part of what is scaled": Slice(Scale(W, 0, G), 0, Dim(2, 1), AFTER),
    "experts in a list": scaled(Each(EXPERT, "expert", C), 2, H),
    "experts in one": rotated(scaled(Stack(Concat((EXPERT, V), 0), "expert", C), 2, H), 2),
    "times a constant": Times(W, -0.75),
    "times a constant, in parts": multiplied(Unflatten(Concat((W, W), 0), 0, (Dim.of(2), A)), 0.3),
    "times a constant from outside": Times(Concat((scaled(W, 1, H), V), 0), 0.3),
    "scaled outside of a constant": Scale(Times(Concat((W, V), 0), 0.3), 1, H),
    "turned outside of a constant": Rotate(Times(Stack(EXPERT, "expert", C), 0.3), 2),
    "experts times a constant": multiplied(Each(EXPERT, "expert", C), 0.3),
    "from outside of what is joined": Scale(Concat((W, V), 0), 1, H),
    "in float8": Quantize(Stack(EXPERT, "expert", C), "float8_e4m3fn", Dim(4, 2)),
    "scales for float8": BlockScales(Stack(EXPERT, "expert", C), "float8_e4m3fn", Dim(4, 2)),
    "in int8, scaled before": Quantize(scaled(W, 1, H), "int8", Dim(3, 2)),
}


@pytest.fixture(scope="module")
def emitted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The file `computed.py` of a package, beside those that it reads with."""
    root = tmp_path_factory.mktemp("computed")
    package = root / "emitted_weights"
    package.mkdir()
    templates = Registry.installed().templates
    values = {"tensors": SimpleNamespace(quantized=True, in_float8=True)}
    for name in ("checkpoint.py", "computed.py", "files.py", "float8.py", "formats.py", "mxfp4.py"):
        (package / name).write_text(render(templates[name], values))
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    yield importlib.import_module("emitted_weights.computed")
    sys.path.remove(str(root))


def read(name: str, shape: tuple[int, ...]) -> Any:
    return np.random.default_rng(list(name.encode())).standard_normal(shape)


def entries(program: Program, which: Any, parameter: Any, emitted: ModuleType) -> list[Any]:
    """What `weights.py` yields of one parameter."""
    lines = ["def tensors(layer, i):"]
    lines += table({"w": Param(program, "float64")}, "layer", which, 4)
    scope = {"Part": lambda shape, of: SimpleNamespace(shape=shape, of=of), **vars(emitted)}
    exec("\n".join(lines), scope)
    found: list[Any] = list(scope["tensors"](SimpleNamespace(w=parameter), 4))
    return found


@pytest.mark.parametrize("which", ["size", "probe"])
@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_is_loaded_is_what_the_program_says(
    program: Program, which: Any, dtype: torch.dtype, emitted: ModuleType
) -> None:
    wanted = torch.from_numpy(program.evaluate(which, read, {"layer": 4}))
    parameter: Any = torch.full(wanted.shape, torch.nan, dtype=dtype)
    parameter = list(parameter) if isinstance(program, Each) else parameter
    found = entries(program, which, parameter, emitted)
    assert any(isinstance(part, emitted.Made) for _, _, *parts in found for part in parts)
    shapes = emitted.gains(found)
    drawn = {name: torch.from_numpy(read(name, shape)) for name, shape in shapes.items()}
    for name, view, *parts in found:
        shape = parts[0].shape if parts else tuple(view.shape)
        tensor = torch.from_numpy(read(name, shape))
        if parts and isinstance(parts[0], emitted.Made):
            part = parts[0]
            given = tuple(drawn[gain] for gain, _ in part.gains)
            view.copy_(emitted.replace(part, read=given, least=torch.float64).of(tensor))
        else:
            view.copy_(parts[0].of(tensor) if parts else tensor)
    loaded = torch.stack(parameter) if isinstance(program, Each) else parameter
    if dtype == torch.float64:
        torch.testing.assert_close(loaded, wanted, rtol=1e-12, atol=1e-13)
    else:
        assert torch.equal(loaded, wanted.to(dtype))


def test_steps_are_computed_in_float32_at_least(emitted: ModuleType) -> None:
    for tensor, least, wide in (
        (torch.bfloat16, torch.float32, torch.float32),
        (torch.float16, torch.float64, torch.float64),
        (torch.float64, torch.float32, torch.float64),
    ):
        seen = []
        part = emitted.Made((2,), "scale", lambda given, seen=seen: seen.extend(given))
        gain = torch.ones(2, dtype=torch.bfloat16)
        emitted.replace(part, read=(gain,), least=least).of(torch.ones(2, dtype=tensor))
        assert [x.dtype for x in seen] == [wide, wide]


@pytest.mark.parametrize(
    ("program", "error"),
    [
        (Rotate(Concat((W, V), 0), 0), "joined from several"),
        (Scale(Stack(EXPERT, "expert", C), 0, Ref("layer.{layer}.c", (C,))), "joined from several"),
        (Scale(W, 0, Scale(G, 0, G)), "a gain is not computed"),
        (Scale(W, 0, Concat((Slice(G, 0, Dim.of(0), B), Slice(G, 0, B, A - B)), 0)), "several"),
    ],
)
def test_what_cannot_be_loaded_is_said(program: Program, error: str, emitted: ModuleType) -> None:
    with pytest.raises(GraphError, match=error):
        entries(program, "size", torch.zeros(1), emitted)


@pytest.mark.parametrize("n", [1, 3, 8, 12, 17, 40])
def test_a_package_turns_as_the_compiler_does(n: int, emitted: ModuleType) -> None:
    from archsmith.compiler.ir.computed import rotation

    assert np.abs(emitted.rotation(n).numpy() - rotation(n)).max() < 1e-15
