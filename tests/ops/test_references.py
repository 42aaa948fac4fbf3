"""References against computations that share nothing with them: PyTorch, transformers, loops."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch.nn.functional as F
from archsmith.compiler.components.rope import Longrope
from archsmith.compiler.ir.dims import Dim
from archsmith.compiler.ops.attention import Attend, Cached
from archsmith.compiler.ops.elementwise import ACTIVATIONS, SigmoidGate
from archsmith.compiler.ops.norm import AddRmsNorm, LayerNorm, RmsNorm
from archsmith.compiler.ops.position import Rope, Rotations
from ops.arrays import THEIRS, normal, same, tensor
from transformers import PretrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

B, T, S, H, G, K, V = 2, 4, 9, 6, 3, 8, 5
POSITIONS = np.array([[5, 6, 7, 8], [0, 3, 1, 2]])  # a later chunk, and rows out of order


def attention(
    q: Any,
    k: Any,
    v: Any,
    *,
    scale: float,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Any = None,
) -> Any:
    """One query, one slot, one number at a time."""
    out = np.zeros((B, T, H, V))
    for b in range(B):
        for t in range(T):
            position = POSITIONS[b, t]
            first = 0 if window is None else max(0, position - window + 1)
            for h in range(H):
                group = h // (H // G)
                scores = []
                for slot in range(first, position + 1):
                    score = scale * sum(q[b, t, h, i] * k[b, slot, group, i] for i in range(K))
                    if softcap is not None:
                        score = softcap * math.tanh(score / softcap)
                    scores.append(score)
                shares = [math.exp(score) for score in scores]
                total = sum(shares) + (0.0 if sinks is None else math.exp(sinks[h]))
                for slot, share in zip(range(first, position + 1), shares, strict=True):
                    out[b, t, h] += share / total * v[b, slot, group]
    return out


@pytest.mark.parametrize("window", [None, 1, 3, 100])
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("with_sinks", [False, True])
def test_attention(window: int | None, softcap: float | None, with_sinks: bool) -> None:
    q, k, v = normal(1, B, T, H, K), normal(2, B, S, G, K), normal(3, B, S, G, V)
    sinks = normal(4, H) if with_sinks else None
    op = Attend(0.3, None if window is None else Dim.of(window), softcap)
    wanted = attention(q, k, v, scale=0.3, window=window, softcap=softcap, sinks=sinks)
    operands = [q, k, v, POSITIONS, *([] if sinks is None else [sinks])]
    same(op.reference(*operands), wanted)


def test_attention_is_pytorchs() -> None:
    q, k, v = normal(1, B, S, H, K), normal(2, B, S, H, K), normal(3, B, S, H, K)
    every = np.tile(np.arange(S), (B, 1))
    heads_first = [tensor(x).transpose(1, 2) for x in (q, k, v)]
    wanted = F.scaled_dot_product_attention(*heads_first, is_causal=True, scale=0.2)
    same(Attend(0.2).reference(q, k, v, every), wanted.transpose(1, 2))


def test_slots_that_no_query_sees_may_hold_anything() -> None:
    q, k, v = normal(1, B, T, H, K), normal(2, B, S, G, K), normal(3, B, S, G, V)
    wanted = Attend(0.3, Dim.of(2)).reference(q, k, v, POSITIONS)
    for row, seen in ((0, range(4, 9)), (1, range(4))):
        for slot in set(range(S)) - set(seen):
            k[row, slot], v[row, slot] = np.nan, np.inf
    same(Attend(0.3, Dim.of(2)).reference(q, k, v, POSITIONS), wanted)


def test_attention_of_large_scores() -> None:
    q, k, v = 1e3 * normal(1, B, T, H, K), normal(2, B, S, G, K), normal(3, B, S, G, V)
    got = Attend(1.0).reference(q, k, v, POSITIONS)
    assert np.isfinite(got).all()
    assert np.abs(got).max() <= np.abs(v).max() + 1e-9


def test_cached_rows_of_several_calls() -> None:
    rows = np.full((2, 6, 3), np.nan)
    x = normal(1, 2, 5, 3)
    first, rows_1 = Cached("c").reference(x[:, :3], np.array([[0, 1, 2], [3, 0, 1]]), rows)
    second, _ = Cached("c").reference(x[:, 3:], np.array([[3, 4], [2, 5]]), rows_1)
    assert np.isnan(rows).all()
    same(second[0, :5], x[0])
    same(second[1, [3, 0, 1, 2, 5]], x[1])
    assert np.isnan(first[1, 2]).all()


YARN = {
    "rope_type": "yarn",
    "factor": 8.0,
    "original_max_position_embeddings": 64,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "attention_factor": 1.25,
}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "original_max_position_embeddings": 256,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
YARN_OURS = {"scaling": "yarn", "factor": 8.0, "original_max_positions": 64, "gain": 1.25}
LLAMA3_OURS = {"scaling": "llama3", "factor": 8.0, "original_max_positions": 256}


@pytest.mark.parametrize("width", [8, 64, 90])
@pytest.mark.parametrize("theta", [100.0, 10000.0, 1e6])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"rope_type": "linear", "factor": 4.0}, {"scaling": "linear", "factor": 4.0}),
        (YARN, YARN_OURS),
        (YARN | {"truncate": False}, YARN_OURS | {"truncate": False}),
        (YARN | {"beta_fast": 8.0, "beta_slow": 2.0}, YARN_OURS | {"beta_fast": 8, "beta_slow": 2}),
        (LLAMA3, LLAMA3_OURS),
        (
            LLAMA3 | {"low_freq_factor": 2.0, "high_freq_factor": 8.0},
            LLAMA3_OURS | {"low_freq_factor": 2.0, "high_freq_factor": 8.0},
        ),
    ],
)
def test_rotations_are_those_of_transformers(
    width: int, theta: float, theirs: dict[str, Any], ours: dict[str, Any]
) -> None:
    config = PretrainedConfig(
        hidden_size=width * 2,
        num_attention_heads=2,
        head_dim=width,
        max_position_embeddings=2048,
        rope_parameters={"rope_theta": theta, **theirs},
    )
    config.rope_parameters = {"rope_theta": theta, **theirs}
    frequencies, gain = ROPE_INIT_FUNCTIONS[theirs["rope_type"]](config, "cpu")
    positions = np.array([[0, 1, 5, 300]])
    cos, sin = Rotations(Dim.of(width), theta, "float64", **ours).reference(positions)
    angles = positions[..., None] * frequencies.double().numpy()
    # transformers computes frequencies in float32: at position 300 that is 3e-5 of an angle.
    same(cos, np.cos(angles) * gain, 5e-5)
    same(sin, np.sin(angles) * gain, 5e-5)


@pytest.mark.parametrize("length", [16, 17])
def test_longrope_is_that_of_transformers(length: int) -> None:
    """Both lists of factors, and the factor on cosine and sine that belongs to either."""
    lists = {"short_factor": [1.0, 1.1, 1.5, 2.0], "long_factor": [1.0, 2.5, 9.0, 30.0]}
    rope = {"rope_type": "longrope", "rope_theta": 100.0, "original_max_position_embeddings": 16}
    config = PretrainedConfig(
        hidden_size=16, num_attention_heads=2, head_dim=8, max_position_embeddings=512
    )
    config.rope_parameters = rope | lists
    init = ROPE_INIT_FUNCTIONS["longrope"]
    frequencies, gain = init(config, "cpu", seq_len=length)
    scaling = Longrope(kind="longrope", original_max_positions=16, factor=32, **lists)
    factors = scaling.long_factor if length > 16 else scaling.short_factor
    op = Rotations(Dim.of(8), 100.0, "float64", "longrope", gain=scaling.gain(), factors=factors)
    positions = np.array([[0, 1, 15, 300]])
    cos, sin = op.reference(positions)
    angles = positions[..., None] * frequencies.double().numpy()
    same(cos, np.cos(angles) * gain, 5e-5)  # as above
    same(sin, np.sin(angles) * gain, 5e-5)


def test_a_probe_has_factors_of_the_same_list() -> None:
    factors = tuple(float(i) for i in range(1, 9))
    few = Rotations(Dim(16, 6), 100.0, "float64", "longrope", factors=factors).at("probe")
    more = Rotations(Dim(16, 22), 100.0, "float64", "longrope", factors=factors).at("probe")
    assert few.attributes()["factors"] == (1.0, 3.0, 6.0)
    assert more.attributes()["factors"] == (1, 1, 2, 3, 3, 4, 5, 6, 6, 7, 8)


@pytest.mark.parametrize("width", [2, 8, 10])
def test_plain_rotations_turn_in_the_complex_plane(width: int) -> None:
    """Neighbours are real and imaginary part; the scores depend on the distance alone."""
    x, positions = normal(1, 2, 5, 3, width), np.array([[0, 1, 2, 3, 4], [9, 7, 5, 3, 1]])
    cos, sin = Rotations(Dim.of(width), 500.0, "float64").reference(positions)
    turned = Rope(interleaved=True).reference(x, cos, sin)
    rates = np.array([500.0 ** (-2 * i / width) for i in range(width // 2)])
    spins = np.exp(1j * positions[:, :, None] * rates)[:, :, None]
    wanted = (x[..., 0::2] + 1j * x[..., 1::2]) * spins
    same(turned[..., 0::2], wanted.real)
    same(turned[..., 1::2], wanted.imag)
    q, k = normal(2, width), normal(3, width)

    def score(i: int, j: int) -> float:
        at = np.array([[i, j]])
        both = Rope(True).reference(
            np.stack([q, k])[None], *Rotations(Dim.of(width), 500.0, "float64").reference(at)
        )
        return float(both[0, 0] @ both[0, 1])

    same(score(7, 4), score(103, 100))


def test_halves_are_neighbours_in_another_order() -> None:
    x = normal(1, 2, 5, 3, 8)
    cos, sin = Rotations(Dim.of(8), 500.0, "float64").reference(np.tile(np.arange(5), (2, 1)))
    order = [0, 4, 1, 5, 2, 6, 3, 7]
    halves = Rope(interleaved=False).reference(x, cos, sin)
    same(halves[..., order], Rope(interleaved=True).reference(x[..., order], cos, sin))


def test_rms_norm_is_pytorchs() -> None:
    x, residual, weight = normal(1, 2, 5, 12), normal(2, 2, 5, 12), normal(3, 12)
    for eps in (1e-6, 0.5):
        wanted = F.rms_norm(tensor(x), (12,), tensor(weight), eps)
        same(RmsNorm(eps).reference(x, weight), wanted)
        same(RmsNorm(eps, offset=1.0).reference(x, weight - 1.0), wanted)
        total, normed = AddRmsNorm(eps, offset=1.0).reference(x, residual, weight)
        same(total, x + residual)
        same(normed, F.rms_norm(tensor(total), (12,), tensor(weight) + 1.0, eps))
        same(RmsNorm(eps).reference(x), F.rms_norm(tensor(x), (12,), eps=eps))
        same(AddRmsNorm(eps).reference(x, residual)[1], F.rms_norm(tensor(total), (12,), eps=eps))


def test_layer_norm_is_pytorchs() -> None:
    x, weight, bias = normal(1, 2, 5, 12), normal(3, 12), normal(4, 12)
    for eps in (1e-6, 0.5):
        wanted = F.layer_norm(tensor(x), (12,), tensor(weight), tensor(bias), eps)
        same(LayerNorm(eps).reference(x, weight, bias), wanted)
        same(LayerNorm(eps, offset=1.0).reference(x, weight - 1.0, bias), wanted)
        wanted = F.layer_norm(tensor(x), (12,), tensor(weight), None, eps)
        same(LayerNorm(eps).reference(x, weight), wanted)
        same(LayerNorm(eps).reference(x), F.layer_norm(tensor(x), (12,), eps=eps))


def test_a_gate_is_a_sigmoid() -> None:
    x, logit = normal(1, 2, 5, 12), normal(2, 2, 5, 1)
    same(SigmoidGate().reference(x, logit), tensor(x) * tensor(logit).sigmoid())


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations_are_pytorchs(name: str) -> None:
    x = np.concatenate([np.linspace(-9, 9, 301), [-700.0, 700.0]])
    same(ACTIVATIONS[name](x), THEIRS[name](tensor(x)))
