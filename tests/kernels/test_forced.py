"""What a package holds its chains of kernels to on a GPU: in Gluon, in Triton and in PyTorch.

Here NumPy stands in for Gluon, and Triton's interpreter for Triton.
"""

from __future__ import annotations

import importlib
import sys
import unittest
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import triton
from archsmith.compiler.driver import Compiler
from kernels.gluon_numpy import Emulated
from kernels.launching import launching
from triton.experimental.gluon._runtime import GluonJITFunction
from triton.runtime.interpreter import InterpretedFunction
from triton.runtime.jit import JITFunction

EXAMPLES = Path(__file__).parents[2] / "examples"
SPEC = """
archsmith: 1
name: forced
dtype: float16
vocab_size: 64
hidden_size: 64
max_positions: 64
layers: [{repeat: 1, block: layer}]
blocks: {layer: [{norm: rms, use: attention}, {norm: rms, use: mlp}]}
parts:
  rms: {kind: rms_norm, eps: 1.0e-6}
  attention: {ATTENTION, rope: {theta: 10000, interleaved: true}}
  mlp: {kind: swiglu, width: 64}
final_norm: rms
head: {tied: false}
"""
LATENT = """kind: mla, heads: 64, kv_lora_rank: 128, qk_nope_head_dim: 64, qk_rope_head_dim: 64,
    v_head_dim: 64, norm: rms"""
# The function that launches it, a kernel in Gluon and its file, and what runs in its place.
CHAINS = (
    ("latent_attention", "split", "latent_split", "decode_attention", LATENT),
    (
        *("overlapped_attention", "attend_tile", "overlapped_tile", "prefill_attention"),
        "kind: gqa, heads: 2, kv_heads: 1, head_dim: 64",
    ),
)


@dataclass(frozen=True)
class Tried:
    """What tries a function, as on a Hopper GPU, on few and small calls."""

    tests: ModuleType
    launcher: ModuleType
    function: str
    place: str

    def run(self) -> None:
        test = self.tests.TritonTest(f"test_{self.function}")
        test.setUp()
        getattr(test, f"test_{self.function}")()


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], str]]:
    """Builds a package of a model with some attention, once, and imports it."""
    root = tmp_path_factory.mktemp("forced")
    compiler = Compiler.installed("h200", numeric=False)
    pipeline, passes = compiler.passes("O2")

    @cache
    def build(function: str, attention: str) -> str:
        (page := root / f"{function}.yaml").write_text(SPEC.replace("ATTENTION", attention))
        name = f"forced_{function}"
        compiler.package(compiler.load(page), root / name, pipeline, passes, prove=False)
        importlib.import_module(f"{name}.tests.on_gpu")
        return name

    sys.path.insert(0, str(root))
    yield build
    sys.path.remove(str(root))


@pytest.fixture(params=CHAINS, ids=[function for function, *_ in CHAINS])
def tried(
    request: pytest.FixtureRequest,
    packages: Callable[[str, str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> Tried:
    function, kernel, part, place, attention = request.param
    package = packages(function, attention)
    tests, launcher, gluon = (
        sys.modules[f"{package}.{file}"]
        for file in ("tests.on_gpu", f"kernels.{function}", f"kernels.{part}")
    )
    monkeypatch.setattr(tests, "DEVICE", "cpu")
    monkeypatch.setattr(tests, "CALLS", ((1, 1, 1), (1, 33, 33)))
    monkeypatch.setattr(tests, "DECODE", ((1, 1, 3),))
    monkeypatch.setattr(tests, function, launching(getattr(tests, function), []))
    monkeypatch.setattr(launcher, kernel, Emulated(gluon, kernel))
    monkeypatch.setattr(launcher, "runs_on_hopper", lambda x: True)
    monkeypatch.setattr(tests, "runs_gluon", lambda device: True)
    return Tried(tests, launcher, function, place)


def test_launches_of_both_languages_are_seen() -> None:
    """Where they are noted, since neither defines its own way to be launched."""
    assert JITFunction.__getitem__ is triton.KernelInterface.__getitem__
    assert GluonJITFunction.__getitem__ is triton.KernelInterface.__getitem__


def test_each_step_is_tried(tried: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    compare = tried.tests.compare

    def listening(found: Any, wanted: Any, by: str) -> None:
        heard.append(by)
        compare(found, wanted, by)

    monkeypatch.setattr(tried.tests, "compare", listening)
    tried.run()
    assert heard[:2] == [tried.function, tried.place]
    assert heard[2] not in heard[:2]


def test_a_kernel_that_is_not_launched_passes_nothing(
    tried: Tried, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though what runs in its place is right; it is skipped on a GPU that cannot launch it."""
    monkeypatch.setattr(tried.launcher, "runs_on_hopper", lambda x: False)
    said = f"{tried.function} was not launched, but what runs in its place"
    with pytest.raises(AssertionError, match=said):
        tried.run()
    real = sys.modules[f"{tried.tests.__package__}.launches"].runs_gluon  # which a CPU does not
    monkeypatch.setattr(tried.tests, "runs_gluon", real)
    with pytest.raises(unittest.SkipTest, match=f"{said}: no kernel in Gluon can be, on this GPU"):
        tried.run()


@pytest.mark.parametrize("step", [0, 1, 2])
def test_a_step_that_is_wrong_is_named(
    step: int, tried: Tried, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In Gluon, in Triton, or in PyTorch."""
    steps = list(tried.tests.steps(getattr(tried.tests, tried.function)))
    right = steps[step]

    def wrong(q: Any, *others: Any, **options: Any) -> Any:
        found = right(q, *others, **options)
        return found if q.itemsize == 8 else found * 1.01

    wrong.__name__ = right.__name__
    if step < 2:
        wrong.reference = right.reference
    owner, name = (steps[step - 1], "reference") if step else (tried.tests, tried.function)
    monkeypatch.setattr(owner, name, wrong)
    with pytest.raises(AssertionError, match=f"{right.__name__}: they differ by"):
        tried.run()


def launched(function: Any) -> Any:
    """A kernel's function, of which nothing but the launches is wanted, as PyTorch's are none."""

    def call(*operands: Any, **options: Any) -> None:
        if hasattr(function, "launch") and operands[0].itemsize < 8:
            function.launch(*operands, **options)

    call.__name__ = function.__name__
    if hasattr(function, "reference"):
        call.reference = launched(function.reference)
    return call


@pytest.mark.parametrize("example", ["deepseek-v3", "gemma-2-9b"])
def test_what_a_published_model_tries_is_launched(
    example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its own sizes, of tensors without numbers: by calls that no other kernel takes over."""
    compiler = Compiler.installed("h200", numeric=False)
    pipeline, passes = compiler.passes("O2")
    spec = compiler.load(EXAMPLES / f"{example}.yaml")
    name = f"tried_{example.replace('-', '_')}"
    compiler.package(spec, tmp_path / name, pipeline, passes, prove=False)
    monkeypatch.syspath_prepend(tmp_path)
    tests = importlib.import_module(f"{name}.tests.on_gpu")
    for kind in (JITFunction, InterpretedFunction):
        monkeypatch.setattr(kind, "run", lambda kernel, *given, grid, warmup, **options: None)
    kernels = {key: f for key, f in vars(tests).items() if hasattr(f, "launch")}
    for key, function in kernels.items():
        monkeypatch.setattr(tests, key, launched(function))
    monkeypatch.setattr(tests, "DEVICE", "meta")
    monkeypatch.setattr(tests, "Routed", lambda function: function, raising=False)
    monkeypatch.setattr(tests, "compare", lambda found, wanted, by: None)
    monkeypatch.setattr(tests.TritonTest, "agree_in_gradients", lambda *operands, **options: None)
    for key in kernels:
        getattr(tests.TritonTest(f"test_{key}"), f"test_{key}")()
