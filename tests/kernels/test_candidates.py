"""What a kernel offers to be measured: few candidates, each of which computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from archsmith.compiler.driver import Compiler
from archsmith.compiler.ir.cost import Sizes
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ir.types import TensorType
from archsmith.compiler.ops.attention import Attend
from archsmith.compiler.ops.elementwise import GatedActivation
from archsmith.compiler.ops.norm import AddRmsNorm, RmsNorm
from archsmith.compiler.ops.position import Rope
from archsmith.compiler.schedule.candidates import candidates
from archsmith.compiler.schedule.kernel import CANDIDATES
from archsmith.compiler.schedule.select import select
from kernels.checks import differ, interpreted, registry

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


@pytest.mark.parametrize("example", PUBLISHED)
def test_candidates_are_few(example: str) -> None:
    """For every published model, on every target with Triton: each takes a second to measure."""
    compiler = Compiler.installed("h200", numeric=False)
    _, passes = compiler.passes("O2")
    model, _ = compiler.rewrite(compiler.build(compiler.load(EXAMPLES / f"{example}.yaml")), passes)
    met = 0
    for target in registry().targets.values():
        for choice in select(model, registry().kernels, target).choices:
            for limit, rows in choice.kernel.rungs() if choice.kernel.triton else ():
                offered = list(choice.kernel.configs(choice.op, choice.operands, rows, target))
                assert 0 < len(offered) <= CANDIDATES, (choice.kernel.name, limit)
                met += 1
    assert met > 0
