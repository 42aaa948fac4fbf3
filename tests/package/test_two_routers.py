"""Blocks in which tokens choose experts twice, of unlike numbers: each choice is told apart."""

from __future__ import annotations

import pytest
import torch
from package.tiny import Build, fresh, prompt

PAGE = """
archsmith: 1
name: two-routers
dtype: float32
vocab_size: 101
hidden_size: 36
max_positions: 64
layers:
  - {repeat: 4, block: [twice, once]}
blocks:
  twice: [{norm: rms, use: few}, {norm: rms, use: attention}, {norm: rms, use: many}]
  once: [{norm: rms, use: attention}, {norm: rms, use: many}]
parts:
  rms: {kind: rms_norm, eps: 1.0e-5}
  attention: {kind: gqa, heads: 4, kv_heads: 2, head_dim: 8,
              rope: {theta: 10000, interleaved: false}}
  few: {kind: moe, experts: 3, top_k: 1, width: 20,
        router: {score: softmax, normalize: false, bias: true}}
  many: {kind: moe, experts: 8, top_k: 2, width: 12, shared: 2,
         router: {score: sigmoid, normalize: true, selection_bias: true}}
final_norm: rms
head: {tied: true}
"""


def test_each_choice_has_the_name_of_its_part(package: Build) -> None:
    built = package("tiny-llama", lambda page: PAGE, "two_routers")
    model = fresh(built)
    with torch.no_grad():
        for layer in (0, 2):
            model.layers[layer].logit_bias.copy_(torch.tensor([0.0, 0.0, 9.0]))
    with built.balance.recording(model) as routes:
        model(prompt(built))
    parts = ["few", "many", "many", "few", "many", "many"]
    assert list(routes) == list(zip([0, 0, 1, 2, 2, 3], parts, strict=True))
    for (_, name), route in routes.items():
        assert route.counts().shape == ((3,) if name == "few" else (8,))
        assert route.counts().sum() == 18 * route.router.top_k
        assert (route.router.bias is None) == (name == "few")
        if name == "few":  # what is recorded are logits with their bias
            assert route.logits.argmax(-1).equal(route.index[..., 0])
            assert route.logits.detach().mean((0, 1)).argmax() == 2
    with pytest.raises(ValueError, match=r"one number of experts, got \[3, 8\]"):
        built.balance.auxiliary_loss(routes)
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    built.balance.update_bias(model, routes, rate=0.5)
    moved = {n for n, weight in model.state_dict().items() if not torch.equal(weight, before[n])}
    assert moved == {f"layers.{i}.router_bias" for i in range(4)}
