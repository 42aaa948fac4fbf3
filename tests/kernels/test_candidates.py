"""What a kernel offers to be measured: few candidates, each of which computes the same."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.attention import Attend
from archsmith.compiler.ops.elementwise import GatedActivation
from archsmith.compiler.ops.experts import FusedExperts
from archsmith.compiler.ops.loss import LinearCrossEntropy
from archsmith.compiler.ops.norm import AddRmsNorm, RmsNorm
from archsmith.compiler.ops.position import Rope
from archsmith.compiler.schedule.candidates import candidates
from archsmith.compiler.schedule.kernel import CANDIDATES, GradientKernel
from archsmith.compiler.schedule.select import select
from kernels import test_linear_cross_entropy as losses
from kernels.attention_cases import Case, gradients_of
from kernels.checks import Results, differ, gradients, interpreted, registry
from kernels.expert_cases import drawn, types

EXAMPLES = Path(__file__).parents[2] / "examples"
PUBLISHED = sorted(
    path.stem for path in EXAMPLES.glob("*.yaml") if not path.stem.startswith(("tiny", "small"))
)
KEYS = ("[B, S, 1, 48]", "[B, S, 1, 32]", "int64[B, T]")
FEW = Sizes(1, 3, 3)
CASES: dict[str, tuple[Op, tuple[str, ...], Sizes]] = {
    "triton.rms_norm": (RmsNorm(1e-6), ("[B, T, 100]", "[100]"), FEW),
    "triton.add_rms_norm": (
        AddRmsNorm(1e-6),
        ("[B, T, 2048]", "[B, T, 2048]", "[2048]"),
        FEW,
    ),
    "triton.gated_activation": (GatedActivation("silu"), ("[B, T, 3000]",) * 2, FEW),
    "triton.rope": (
        Rope(False),
        ("[B, T, 12, 24]", "float32[B, T, 12]", "float32[B, T, 12]"),
        FEW,
    ),
    "triton.decode_attention": (Attend(0.2), ("[B, T, 2, 48]", *KEYS), Sizes(2, 1, 40)),
    "triton.prefill_attention": (Attend(0.2), ("[B, T, 2, 48]", *KEYS), Sizes(1, 67, 67)),
}


@pytest.mark.parametrize("name", CASES)
def test_every_candidate_computes_the_same(name: str) -> None:
    """In float16, since narrow numbers are what most candidates are for."""
    op, texts, sizes = CASES[name]
    kernel, chip = registry().kernels[name](), registry().targets["h200"]
    types = tuple(TensorType.parse(t if t[0] != "[" else f"float16{t}") for t in texts)
    *_, (limit, rows) = kernel.rungs()
    offered = candidates(kernel, op, types, rows, chip)
    assert 3 < len(offered) <= CANDIDATES
    # The interpreter knows neither warps nor stages.
    unlike = {str(config.constants): config for config in offered}
    assert len(unlike) > 1
    last = np.arange(sizes.context - sizes.tokens, sizes.context)
    values = {"positions": np.tile(last, (sizes.batch, 1))}
    for config in unlike.values():
        tiles = {limit: config.options()}
        found, wanted = interpreted(
            name,
            op,
            texts,
            sizes,
            dtype="float16",
            phases=kernel.phases[-1:],
            values=values,
            tiles=tiles,
        )
        # What is kept for gradients is not the op's result.
        assert differ(found[: len(wanted)], wanted) < 2e-3, config


ATTENTION = Case([67], 2, 1, 48, 32, tokens=67)
LOSS = LinearCrossEntropy()
EXPERTS = (9, 5, 2, 64, 48)
Run = Callable[..., tuple[Results, Results]]
# Who offers tiles, for what, and what is computed with them.
TRAINED: dict[str, tuple[str, Op, tuple[str, ...], Run]] = {
    "rms_norm": (
        "triton.rms_norm_gradients",
        RmsNorm(0.1),
        ("[B, T, 100]", "[100]"),
        partial(gradients, of=("x", "weight")),
    ),
    "gated_activation": (
        "triton.gated_activation_gradients",
        GatedActivation("silu"),
        ("[B, T, 3000]",) * 2,
        partial(gradients, of=("gate", "up")),
    ),
    "experts": (
        "triton.grouped_gemm_gradients",
        FusedExperts("silu"),
        types(*EXPERTS[1:]),
        partial(
            gradients, of=("x", "weight", "gate_up", "down"), values=drawn(*EXPERTS, 1, 0, None)
        ),
    ),
    "attention": (
        "triton.prefill_attention_gradients",
        ATTENTION.op,
        tuple(ATTENTION.types),
        lambda *_, dtype, tiles: gradients_of(ATTENTION, dtype, tiles=tiles),
    ),
    "loss": (
        "triton.linear_cross_entropy",
        LOSS,
        ("[B, T, 40]", "[300, 40]", "int64[B, T]"),
        lambda *_, dtype, tiles: losses.run(9, 300, 40, dtype=dtype, tiles=tiles),
    ),
    "loss, backward": (
        "triton.linear_cross_entropy",
        LOSS,
        ("[B, T, 40]", "[300, 40]", "int64[B, T]"),
        lambda *_, dtype, tiles: losses.differentiated(9, 300, 40, dtype=dtype, tiles=tiles),
    ),
}


@pytest.mark.parametrize("name", TRAINED)
def test_every_candidate_of_what_trains_computes_the_same(name: str) -> None:
    tuned, op, texts, run = TRAINED[name]
    kernel, chip = registry().kernels[tuned](), registry().targets["h200"]
    whole = tuple(TensorType.parse(t if t[0] != "[" else f"float16{t}") for t in texts)
    *_, (limit, rows) = kernel.rungs()
    offered = candidates(kernel, op, whole, rows, chip)
    assert 3 < len(offered) <= CANDIDATES
    unlike = {str({**c.constants, "GROUP_M": 0}): c for c in offered}  # the order of programs
    assert len(unlike) > 1
    for config in unlike.values():
        tiles = {limit: config.options()}
        found = run(tuned, op, texts, Sizes(1, EXPERTS[0], 9), dtype="float16", tiles=tiles)
        assert differ(*found) < 3e-3, config


@pytest.mark.parametrize("example", PUBLISHED)
def test_candidates_are_few(example: str) -> None:
    """For every published model, on every target with Triton: each takes a second to measure."""
    compiler = Compiler.installed("h200", numeric=False)
    _, passes = compiler.passes("O2")
    model, _ = compiler.rewrite(compiler.build(compiler.load(EXAMPLES / f"{example}.yaml")), passes)
    met = 0
    for target in registry().targets.values():
        for choice, kernel in select(model, registry().kernels, target).compiled():
            for limit, rows in kernel.rungs() if kernel.triton else ():
                offered = list(kernel.configs(choice.op, choice.operands, rows, target))
                shared = isinstance(kernel, GradientKernel) and not offered  # the other's
                assert shared or 0 < len(offered) <= CANDIDATES, (kernel.name, limit)
                met += 1
    assert met > 0
