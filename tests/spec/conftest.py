"""A good spec and the kinds of parts that are built in."""

from __future__ import annotations

import pytest
from archsmith.compiler.components.gqa import Gqa
from archsmith.compiler.components.mla import Mla
from archsmith.compiler.components.moe import Moe
from archsmith.compiler.components.norm import RmsNorm
from archsmith.compiler.components.swiglu import Swiglu
from archsmith.compiler.spec.schema import Part

GOOD = """\
archsmith: 1
name: tiny-model
dtype: bfloat16
vocab_size: 1000
hidden_size: 64
max_positions: 4096
layers:
  - {repeat: 2, block: dense}
  - {repeat: 5, block: [sparse, local]}
blocks:
  dense: [{norm: rms, use: latent}, {norm: rms, use: mlp, post_norm: rms}]
  sparse: [{norm: rms, use: latent}, {norm: rms, use: [experts, mlp]}]
  local: [{norm: rms, use: attention}, {norm: rms, use: experts}]
parts:
  rms: {kind: rms_norm, eps: 1.0e-6}
  latent:
    kind: mla
    heads: 3
    kv_lora_rank: 32
    qk_nope_head_dim: 16
    qk_rope_head_dim: 8
    v_head_dim: 16
    norm: rms
    rope: {theta: 10000, interleaved: true, scaling: {kind: yarn, factor: 40, original_max_positions: 64}}
  attention: {kind: gqa, heads: 6, kv_heads: 2, head_dim: 16, qk_norm: rms, rope: {theta: 1e6, dim: 8, interleaved: false}}
  mlp: {kind: swiglu, width: 176}
  experts: {kind: moe, experts: 64, top_k: 6, width: 24, shared: 2, router: {score: sigmoid, groups: 8, top_groups: 3, group_score: top2_sum, normalize: true}}
final_norm: rms
head: {tied: false}
"""  # noqa: E501


@pytest.fixture(scope="session")
def good() -> str:
    return GOOD


@pytest.fixture(scope="session")
def kinds() -> dict[str, type[Part]]:
    return {model.kind: model for model in (Gqa, Mla, Moe, RmsNorm, Swiglu)}
