"""Experts and routing where nothing may depend on values, and when they are chosen."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from archsmith.compiler.driver import Compiler
from archsmith.compiler.ops.elementwise import ACTIVATIONS
from archsmith.compiler.ops.experts import Experts, FusedExperts
from package.tiny import EXAMPLES
from torch import nn

B, T, K, E, D, F = 2, 5, 3, 7, 6, 4


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The kernel's file as it is emitted."""
    root = tmp_path_factory.mktemp("traced")
    compiler = Compiler.installed("mlir", numeric=False)
    pipeline, passes = compiler.passes(None)
    spec = compiler.load(EXAMPLES / "tiny-deepseek-v3.yaml")
    compiler.package(spec, root / "traced_experts", pipeline, passes, prove=False)
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    yield importlib.import_module("traced_experts.kernels.dense_experts")
    sys.path.remove(str(root))


def operands(seed: int = 0) -> list[torch.Tensor]:
    """x, index, weight, gate, up, down; the experts of a token are distinct."""
    torch.manual_seed(seed)
    index = torch.rand(B, T, E).argsort(-1)[..., :K]
    sizes = (B, T, D), (B, T, K), (E, F, D), (E, F, D), (E, D, F)
    x, weight, gate, up, down = (torch.randn(*size, dtype=torch.float64) for size in sizes)
    return [x, index, weight, gate, up, down]


def same(got: torch.Tensor, wanted: Any) -> None:
    torch.testing.assert_close(got, torch.from_numpy(wanted), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
@pytest.mark.parametrize("packed", [True, False])
def test_dense_experts_are_the_chosen_ones(
    activation: str, packed: bool, dense: ModuleType
) -> None:
    x, index, weight, gate, up, down = operands()
    gate_up = torch.stack((gate, up), 1)
    arrays = [tensor.numpy() for tensor in (x, index, weight, gate, up, down)]
    wanted = Experts(activation).reference(*arrays)
    fused = FusedExperts(activation).reference(*arrays[:3], gate_up.numpy(), arrays[-1])

    def given(weights: torch.Tensor) -> Any:
        return weights if packed else nn.ParameterList(list(weights))

    with torch.no_grad():
        got = dense.dense_experts(x, index, weight, *map(given, (gate, up, down)), activation)
        same(got, wanted)
        got = dense.dense_fused_experts(x, index, weight, given(gate_up), given(down), activation)
        same(got, fused)


def test_what_an_expert_makes_of_a_stranger_may_be_infinite(dense: ModuleType) -> None:
    x, index, weight, gate, up, down = operands()
    finite = dense.dense_experts(x, index, weight, gate, up, down)
    gate[4], up[4] = 1e200, 1e200
    got = dense.dense_experts(x, index, weight, gate, up, down)
    strangers = (index != 4).all(-1)
    assert strangers.any()
    assert not strangers.all()
    assert not got[~strangers].isfinite().all()
    torch.testing.assert_close(got[strangers], finite[strangers], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("example", "pipeline"), [("tiny-mixtral", "O0"), ("tiny-deepseek-v3", "O2")]
)
def test_a_traced_package_is_proved(example: str, pipeline: str, tmp_path: Path) -> None:
    """With experts as lists, routed without groups, and packed, with them; in every phase."""
    compiler = Compiler.installed("mlir", numeric=False)
    name, passes = compiler.passes(pipeline)
    spec = compiler.load(EXAMPLES / f"{example}.yaml")
    report = compiler.package(spec, tmp_path / "traced", name, passes, dry_run=True)
    assert report.proof is not None, report.unproved


@pytest.mark.parametrize(("target", "dense"), [("cpu", False), ("mlir", True)])
def test_the_target_says_which_experts_are_run(target: str, dense: bool) -> None:
    compiler = Compiler.installed(target, numeric=False)
    spec = compiler.load(EXAMPLES / "tiny-deepseek-v3.yaml")
    for pipeline in ("O0", "O2"):
        model, _ = compiler.rewrite(compiler.build(spec), compiler.passes(pipeline)[1])
        names = {
            kernel.name for kernel in compiler.schedule(model).used() if "experts" in kernel.name
        }
        assert len(names) == 1
        assert ("dense" in names.pop()) == dense
