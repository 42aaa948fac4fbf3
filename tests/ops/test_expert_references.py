"""References of routing and experts against loops, and against PyTorch."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ir.op import Op
from archsmith.compiler.ops.elementwise import ACTIVATIONS
from archsmith.compiler.ops.experts import Experts, FusedExperts
from archsmith.compiler.ops.moe import NormRouter, Route, Router
from archsmith.compiler.ops.norm import AddRmsNorm
from ops.arrays import THEIRS, normal, same, tensor

SCORES = {
    "softmax": lambda x: torch.softmax(x, -1),
    "sigmoid": torch.sigmoid,
    "sqrtsoftplus": lambda x: F.softplus(x, threshold=1e6).sqrt(),
}


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("group_score", ["max", "top2_sum"])
@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("biased", [False, True])
def test_routing(score: str, groups: int, group_score: str, normalize: bool, biased: bool) -> None:
    experts, top_k, top_groups = 12, 3, max(1, groups - 1)
    logits, bias = normal(1, 2, 5, experts), 0.3 * normal(2, experts)
    op = Route(
        score, Dim.of(top_k), Dim.of(groups), Dim.of(top_groups), group_score, normalize, 2.5
    )
    index, weight = op.reference(logits, *([bias] if biased else []))
    scores = SCORES[score](tensor(logits)).numpy()
    for b in range(2):
        for t in range(5):
            choice = scores[b, t] + (bias if biased else 0.0)
            size = experts // groups
            worth = []
            for g in range(groups):
                ranked = sorted(choice[g * size : (g + 1) * size], reverse=True)
                worth.append(ranked[0] if group_score == "max" else ranked[0] + ranked[1])
            kept = sorted(range(groups), key=lambda g: -worth[g])[:top_groups]
            allowed = [e for e in range(experts) if groups == 1 or e // size in kept]
            wanted = sorted(allowed, key=lambda e: -choice[e])[:top_k]
            shares = np.array([scores[b, t, e] for e in wanted])
            shares = 2.5 * (shares / shares.sum() if normalize else shares)
            assert index[b, t].tolist() == wanted
            same(weight[b, t], shares)


@pytest.mark.parametrize("score", SCORES)
def test_experts_that_are_always_used_stand_behind_the_chosen(score: str) -> None:
    logits, bias = normal(1, 2, 5, 12), 0.3 * normal(2, 12)
    plain = Route(score, Dim.of(3), normalize=True, scale=2.5)
    index, weight = replace(plain, always=Dim.of(2), always_weight=0.4).reference(logits, bias)
    chosen, shares = plain.reference(logits, bias)
    assert np.array_equal(index[..., :3], chosen)
    same(weight[..., :3], shares)
    assert (index[..., 3:] == [12, 13]).all()
    assert (weight[..., 3:] == 0.4).all()


def test_a_router_makes_its_logits() -> None:
    x, table, bias = normal(1, 2, 5, 7), normal(2, 12, 7), 0.3 * normal(3, 12)
    rules = ("sigmoid", Dim.of(3), Dim.of(4), Dim.of(2), "top2_sum", True, 2.5, Dim.of(2), 0.5)
    logits = F.linear(tensor(x), tensor(table)).numpy()
    for found, wanted in zip(
        Router(*rules).reference(x, table, bias), Route(*rules).reference(logits, bias), strict=True
    ):
        same(found, wanted)


def test_a_bias_of_logits_takes_part_in_weights() -> None:
    x, table, bias = normal(1, 2, 5, 7), normal(2, 12, 7), 0.3 * normal(3, 12)
    logits = F.linear(tensor(x), tensor(table), tensor(bias)).numpy()
    found = Router("softmax", Dim.of(3), bias_of="logits").reference(x, table, bias)
    for one, other in zip(found, Route("softmax", Dim.of(3)).reference(logits), strict=True):
        same(one, other)


def test_what_is_normed_is_routed() -> None:
    x, residual, gain = normal(1, 2, 5, 7), normal(2, 2, 5, 7), normal(3, 7)
    table = normal(4, 12, 7)
    norm = AddRmsNorm(1e-3, 1.0).reference(x, residual, gain)
    wanted = *norm, *Router("softmax", Dim.of(3)).reference(norm[1], table)
    op = NormRouter("softmax", Dim.of(3), eps=1e-3, offset=1.0)
    found = op.reference(x, residual, gain, table)
    for one, other in zip(found, wanted, strict=True):
        same(one, other)


@pytest.mark.parametrize("op", [Experts, FusedExperts])
def test_experts_that_are_always_used_are_a_feed_forward(op: type[Op]) -> None:
    """Three experts of width 7 that every token uses are one of width 21, behind the four others;
    what `index` says of them does not matter."""
    x, index, weight = (
        normal(1, 2, 5, 12),
        np.array([[[2, 0]] * 5, [[3, 1]] * 5]),
        normal(3, 2, 5, 5),
    )
    weight[..., 2:] = 0.8
    gate, up, down = normal(4, 7, 7, 12), normal(5, 7, 7, 12), normal(6, 7, 12, 7)
    chosen = Experts("silu").reference(x, index, weight[..., :2], gate[:4], up[:4], down[:4])
    wide_gate, wide_up = (tensor(w[4:].reshape(21, 12)) for w in (gate, up))
    hidden = F.silu(F.linear(tensor(x), wide_gate)) * F.linear(tensor(x), wide_up)
    wide_down = tensor(down[4:].transpose(1, 0, 2).reshape(12, 21))
    wanted = chosen + 0.8 * F.linear(hidden, wide_down).numpy()
    weights = (gate, up) if op is Experts else (np.stack([gate, up], axis=1),)
    for further in ([4, 5, 6], [0, 0, 0]):
        given = np.concatenate([index, np.broadcast_to(further, (2, 5, 3))], axis=-1)
        found = op("silu", always=Dim.of(3)).reference(x, given, weight, *weights, down)
        same(found, wanted)


def test_ties_go_to_the_first_expert() -> None:
    index, _ = Route("softmax", Dim.of(2), Dim.of(2), Dim.of(1)).reference(np.zeros((1, 1, 6)))
    assert index.tolist() == [[[0, 1]]]


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_experts(activation: str) -> None:
    x, index = (
        normal(1, 2, 5, 12),
        np.random.default_rng(2).permuted(np.tile(np.arange(4), (2, 5, 1)), axis=-1)[..., :3],
    )
    weight = normal(3, 2, 5, 3)
    gate, up, down = normal(4, 4, 7, 12), normal(5, 4, 7, 12), normal(6, 4, 12, 7)
    wanted = np.zeros_like(x)
    for b in range(2):
        for t in range(5):
            for e, share in zip(index[b, t], weight[b, t], strict=True):
                row = tensor(x[b, t])
                lifted = THEIRS[activation](F.linear(row, tensor(gate[e])))
                hidden = lifted * F.linear(row, tensor(up[e]))
                wanted[b, t] += share * F.linear(hidden, tensor(down[e])).numpy()
    same(Experts(activation).reference(x, index, weight, gate, up, down), wanted)
    gate_up = np.stack([gate, up], axis=1)
    same(FusedExperts(activation).reference(x, index, weight, gate_up, down), wanted)


@pytest.mark.parametrize("fused", [False, True])
def test_experts_with_biases_a_clamp_and_an_offset(fused: bool) -> None:
    """Row by row, as arXiv:2508.10925 has its experts: g = min(gate, c), u = clip(up, -c, c),
    y = W (g sigmoid(1.7 g) (u + 1)) + b."""
    x, weight, index = (
        normal(1, 2, 3, 12),
        normal(2, 2, 3, 2),
        np.array([[[2, 0]] * 3, [[3, 1]] * 3]),
    )
    gate, up, down = normal(4, 4, 7, 12), normal(5, 4, 7, 12), normal(6, 4, 12, 7)
    biases = normal(7, 4, 7), normal(8, 4, 7), normal(9, 4, 12)
    rules = {"activation": "silu", "alpha": 1.7, "clamp": 0.8, "up_offset": 1.0}
    if fused:
        both = (np.stack(biases[:2], 1), biases[2])
        found = FusedExperts(**rules).reference(
            x, index, weight, np.stack((gate, up), 1), down, *both
        )
    else:
        found = Experts(**rules).reference(x, index, weight, gate, up, down, *biases)
    wanted = np.zeros_like(x)
    for b, t, k in np.ndindex(index.shape):
        e = index[b, t, k]
        g = tensor(gate[e] @ x[b, t] + biases[0][e]).clamp(max=0.8)
        u = tensor(up[e] @ x[b, t] + biases[1][e]).clamp(-0.8, 0.8)
        middle = (g * torch.sigmoid(1.7 * g) * (u + 1)).numpy()
        wanted[b, t] += weight[b, t, k] * (down[e] @ middle + biases[2][e])
    same(found, wanted)
