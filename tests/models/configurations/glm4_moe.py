"""Tiny configurations of GLM-4.5, and mistakes in them."""

from __future__ import annotations

from . import llama
from .configuration import YARN, Fields, Mistake

BASE: Fields = llama.BASE | {
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "moe_intermediate_size": 18,
    "n_routed_experts": 6,
    "num_experts_per_tok": 3,
}

# What each case changes of the base.
CHANGES: dict[str, Fields] = {
    "plain": {"routed_scaling_factor": 1.5},
    "qk-norm": {"use_qk_norm": True, "attention_bias": True, "n_shared_experts": 2},
    "groups": {"n_routed_experts": 12, "n_group": 3, "topk_group": 2, "num_hidden_layers": 3},
    "quarter": {"partial_rotary_factor": 0.25, "head_dim": 16, "norm_topk_prob": False},
    "whole": {"partial_rotary_factor": 1.0, "head_dim": 10, "n_shared_experts": 0},
    "all-sparse": {"first_k_dense_replace": 0, "num_hidden_layers": 1, "rms_norm_eps": 1e-3},
    "yarn": {"rope_scaling": YARN, "tie_word_embeddings": True, "attention_bias": True},
}
WRONG: list[Mistake] = [
    ({"partial_rotary_factor": 0.3}, "partial_rotary_factor", "E0308", "no number of pairs"),
    ({"head_dim": 10}, "head_dim", "E0308", "no number of pairs"),
    ({"partial_rotary_factor": 1.5}, "partial_rotary_factor", "E0306", "up to 1"),
    ({"partial_rotary_factor": "half"}, "partial_rotary_factor", "E0306", "up to 1"),
    ({"partial_rotary_factor": None}, "partial_rotary_factor", "E0306", "up to 1"),
    (
        {"partial_rotary_factor": 0.5, "rope_parameters": {"partial_rotary_factor": 0.25}},
        "rope_parameters",
        "E0308",
        "and, in rope_parameters",
    ),
    ({"n_group": 4, "topk_group": 4}, "n_routed_experts", "E0308", "not a multiple"),
    ({"n_group": 6, "topk_group": 4}, "n_routed_experts", "E0308", "less than 2 times"),
    ({"scoring_func": "softmax"}, "scoring_func", "E0304", "unknown field"),
    ({"moe_layer_freq": 2}, "moe_layer_freq", "E0304", "unknown field"),
]
