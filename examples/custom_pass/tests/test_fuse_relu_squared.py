"""FuseReluSquared on small graphs, each application proved, and on a model."""

from __future__ import annotations

from pathlib import Path

import pytest
from archsmith.compiler.testing import Case, cases, check_pass
from archsmith_relu2.fuse_relu_squared import FuseReluSquared

SPEC = """\
archsmith: 1
name: primer
dtype: float32
vocab_size: 300
hidden_size: 48
max_positions: 256
layers: [{repeat: 2, block: layer}]
blocks:
  layer: [{norm: rms, use: attention}, {norm: rms, use: mlp}]
parts:
  rms: {kind: rms_norm, eps: 1.0e-5}
  attention: {kind: gqa, heads: 4, kv_heads: 2, head_dim: 16}
  mlp: {kind: relu2_mlp, width: 90}
final_norm: rms
head: {tied: true}
"""


@pytest.mark.parametrize("case", cases(Path(__file__).with_name("fuse_relu_squared.ir")), ids=str)
def test_case(case: Case) -> None:
    case.check(FuseReluSquared())


def test_a_model() -> None:
    outcome = check_pass(FuseReluSquared(), SPEC)
    assert outcome.applications == 1
