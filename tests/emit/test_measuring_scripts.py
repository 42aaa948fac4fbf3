"""What the measuring child draws, and how it tells results apart."""

from __future__ import annotations

import runpy
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from archsmith.compiler.emit.measure import SCRIPTS, timed
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.moe import NormRouter
from archsmith.compiler.plugins import Registry
from bench.cases import experts, in_float8

WEIGHT = {"name": "weight", "kind": "weight", "dtype": "float32", "of": 0}
ROWS = {"name": "x", "kind": "rows", "dtype": "float32", "shape": [1, 3, 4], "of": 0}
INDEX = {"name": "index", "kind": "choices", "dtype": "int64", "shape": [1, 3, 2], "of": 9}


def script(registry: Registry, name: str) -> Any:
    names: dict[str, Any] = {}
    exec(registry.templates[name], names)
    return SimpleNamespace(**names, names=names)


def places(sets: list[list[torch.Tensor]], operand: int) -> int:
    return len({operands[operand].data_ptr() for operands in sets})


@pytest.mark.parametrize(
    ("columns", "weights", "most", "found"),
    [(1 << 12, 1, 64, 8), (1 << 10, 2, 64, 8), (1 << 7, 16, 64, 16), (1 << 7, 16, 4, 4)],
)
def test_experts_are_chosen_anew_and_weights_fill_the_cache(
    registry: Registry, columns: int, weights: int, most: int, found: int
) -> None:
    """A cache of 8 KiB, and weights of up to as much."""
    operands = script(registry, "operands.py")
    operands.names["CACHE"] = 1 << 13
    weight = {**WEIGHT, "shape": [2, columns]}
    sets = operands.operand_sets([ROWS, INDEX, weight], "cpu", most)
    assert len(sets) == found
    assert places(sets, 0) == 1
    assert places(sets, 2) == min(weights, most)
    assert len({tuple(index.flatten().tolist()) for _, index, _ in sets}) == found
    for _, index, _ in sets:
        assert all(len(set(row)) == 2 for row in index[0].tolist())
    without = operands.operand_sets([ROWS, weight], "cpu", most)
    assert len(without) == min(weights, most)


@pytest.fixture
def measuring(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """What the child has that measures."""
    for name in SCRIPTS:
        (tmp_path / name).write_text(registry.templates[name])
        monkeypatch.setitem(sys.modules, name.removesuffix(".py"), ModuleType(name))
        del sys.modules[name.removesuffix(".py")]
    monkeypatch.syspath_prepend(tmp_path)
    return runpy.run_path(str(tmp_path / "measure.py"))


def test_the_reference_of_a_kernel_is_pytorchs(measuring: dict[str, Any]) -> None:
    """That of a kernel in Gluon is in Triton, and has itself one."""
    taken = measuring["taken"]
    plain, launch = SimpleNamespace(), SimpleNamespace()
    inner = SimpleNamespace(reference=plain, registered=launch)
    outer = SimpleNamespace(reference=inner, registered=launch)
    assert taken(outer, "reference") is plain
    assert taken(outer, "compiled") is plain
    assert taken(outer, "kernel") in (outer, launch)
    assert taken(plain, "reference") is plain


def test_results_differ_by_the_largest_of_all(registry: Registry) -> None:
    results = script(registry, "results.py")
    results.names["PIECE"] = 5  # so that there are several, and a last one of fewer
    x, one = torch.randn(3, 4, generator=torch.Generator().manual_seed(0)), torch.ones(2)
    y = x.clone()
    y[2, 3] += 0.5
    wanted = float((x - y).norm() / y.norm())
    assert results.difference((x.flatten(), one), (y, one)) == pytest.approx(wanted)
    assert results.difference((x, one), (x, one * 2)) == pytest.approx(0.5)
    assert results.difference((x * float("nan"),), (x,)) == 1e30
    with pytest.raises(ValueError, match="zip"):
        results.difference((x,), (x, one))


def test_gradients_are_behind_the_results_along_the_same_directions(registry: Registry) -> None:
    results = script(registry, "results.py")
    x, y = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).unbind()
    both = results.with_gradients(lambda x, y: (x * y, torch.zeros(1, dtype=torch.int64)), [1])
    product, _, found = both(x, y)
    along = found / x
    assert torch.equal(product.detach(), x * y)
    assert along.std() > 0.1
    again = results.with_gradients(lambda x, y: y * x, [0])
    torch.testing.assert_close(again(x, y)[1], along * y)
    assert torch.equal(both(x, y)[2], found)


def test_gradients_alone_are_made_again_of_results_that_stay(registry: Registry) -> None:
    results = script(registry, "results.py")
    calls = []

    def square(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        calls.append(x)
        return x * x * y

    x, y = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0)).unbind()
    begin, gradients = results.in_two(square, [0])
    one, other = begin(x, y), begin(2 * x, y)
    (found,) = gradients(*one)
    (twice,), (again,) = gradients(*other), gradients(*one)
    assert len(calls) == 2
    assert torch.equal(again, found)
    torch.testing.assert_close(twice, 2 * found)  # along the same direction
    assert torch.equal(results.with_gradients(square, [0])(x, y)[1], found)


@pytest.mark.parametrize("dtype", ["float8_e4m3fn", "int8"])
def test_weights_in_8_bits_are_drawn_with_scales(registry: Registry, dtype: str) -> None:
    operands = script(registry, "operands.py")
    narrow = {**WEIGHT, "dtype": dtype, "shape": [2, 64, 64]}
    scale = {**WEIGHT, "name": "scale", "kind": "scale", "shape": [2, 1, 1]}
    ((weight, of),) = operands.operand_sets([narrow, scale], "cpu", 1)
    assert str(weight.dtype) == f"torch.{dtype}"
    assert 20 < weight.float().std() < 40
    assert of.min() > 0
    assert (weight.float() * of).abs().max() < 1


def test_each_operand_is_drawn_as_what_it_is(registry: Registry) -> None:
    case, kernel = in_float8(experts("v2-lite")), registry.kernels["torch.quantized_experts"]()
    chip = registry.targets["cpu"]
    given = "it", kernel, case.op, case.operands, "decode", Sizes(1, 1, 1), []
    call = timed(*given, chip, ["weight"])
    kinds = [operand["kind"] for operand in call["operands"]]
    assert kinds == ["rows", "choices", "rows", "weight", "weight", "scale", "scale"]
    assert call["operands"][1]["of"] == 64
    assert call["gradients"] == [2]
    assert not call["alone"]
    alone = timed(*given, chip, ["weight"], alone=True)
    kinds = [operand["kind"] for operand in alone["operands"]]
    assert kinds[:4] == ["context", "choices", "context", "weight"]  # it is long since they were
    assert alone["alone"]
    assert not timed(*given, chip, [], alone=True)["alone"]
    assert call["attributes"]["block"] == 128


def routing(registry: Registry) -> dict[str, Any]:
    """A call of a kernel that counts its programs, for two rows."""
    kernel, chip = registry.kernels["triton.norm_router"](), registry.targets["h200"]
    texts = *["float32[B, T, 8]"] * 2, "float32[8]", "float32[4, 8]"
    op, types = NormRouter("softmax", Dim.of(2), eps=1e-6), tuple(map(TensorType.parse, texts))
    return timed("it", kernel, op, types, "decode", Sizes(2, 1, 9), [], chip)


def test_a_peer_is_given_no_counters(
    registry: Registry, measuring: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    call, peer = routing(registry), ModuleType("peer")
    peer.__dict__["norm_router"] = lambda **_: (lambda x, residual, gain, weight: [x, weight], sum)
    monkeypatch.setitem(sys.modules, "peer", peer)
    arranged, function = measuring["made"](call, {"way": "peer", "package": "peer"}, {})
    assert [operand["name"] for operand in call["operands"]][-1] == "arrived"
    assert function(arranged(1, 2, 3, 4, 5)) == 5


def test_counters_are_drawn_as_zeros(registry: Registry) -> None:
    """From another number, no program of a router would find that it is the last."""
    call = routing(registry)
    (counters,) = (operand for operand in call["operands"] if operand["kind"] == "counters")
    found = script(registry, "operands.py").drawn(counters, "cpu")
    assert found.equal(torch.zeros(2, dtype=torch.int32))
    assert "arrived" in call["expression"]


def test_rows_are_kept_in_the_slots_of_the_last_tokens(registry: Registry) -> None:
    drawn = script(registry, "operands.py").drawn
    slots = {"kind": "slots", "dtype": "int64", "shape": [2, 3], "of": 5}
    assert drawn(slots, "cpu").tolist() == [[2, 3, 4], [7, 8, 9]]
    kept = {"kind": "kept", "dtype": "float8_e4m3fn", "shape": [10, 4], "of": 0}
    assert drawn(kept, "cpu").dtype == torch.float8_e4m3fn


def test_choices_that_nearly_tie_are_few(registry: Registry) -> None:
    """Of 200 rows two choose otherwise, with other weights; three are too many."""
    results = script(registry, "results.py")
    index, weight = torch.arange(800).view(1, 200, 4), torch.ones(1, 200, 4)
    other, share = index.clone(), weight.clone()
    other[0, [5, 77], 1] += 1
    share[0, [5, 77]] = 3.0
    assert results.difference((other, share), (index, weight)) == 0
    assert results.difference((index, share), (index, weight)) == pytest.approx(0.2)
    other[0, 123, 0] += 1
    assert results.difference((other, weight), (index, weight)) == 1e30


@pytest.mark.parametrize("waiting", [False, True])
def test_no_graph_is_begun_of_calls_that_wait_for_the_gpu(
    registry: Registry, monkeypatch: pytest.MonkeyPatch, waiting: bool
) -> None:
    """By a stand-in for a GPU: a graph that fails may keep what memory it was given."""
    modes, begun = ["default"], []

    def function(x: int) -> None:
        if waiting and modes[-1] == "error":
            raise RuntimeError("called a synchronizing CUDA operation")

    def graph(*_: Any, **__: Any) -> Any:
        begun.append(modes[-1])
        return nullcontext()

    event = SimpleNamespace(
        record=lambda: None, synchronize=lambda: None, elapsed_time=lambda end: 3.0
    )
    for name, stand_in in {
        "set_sync_debug_mode": modes.append,
        "graph": graph,
        "CUDAGraph": lambda: SimpleNamespace(replay=lambda: None, pool=lambda: (0, 1)),
        "Event": lambda enable_timing: event,
        "synchronize": lambda: None,
        "current_stream": lambda: None,
    }.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    run = script(registry, "clock.py").prepared(function, [[1], [2]], "cuda", 0.0)
    assert run() == 3e-3 / 2
    assert modes == ["default", "error", "default"]
    assert begun == ([] if waiting else ["default"])
    assert (run.captured, run.pool) == ((False, None) if waiting else (True, (0, 1)))
