"""Tiny configurations of OLMoE, and mistakes in them."""

from __future__ import annotations

from . import llama
from .configuration import LINEAR, Fields, Mistake

BASE: Fields = llama.BASE | {
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "intermediate_size": 18,
    "pad_token_id": 1,
}

# What each case changes of the base.
CHANGES: dict[str, Fields] = {
    "plain": {},
    "clip": {"clip_qkv": 0.7, "norm_topk_prob": True},
    "groups": {"num_attention_heads": 6, "num_key_value_heads": 2, "hidden_size": 48},
    "default-heads": {"num_key_value_heads": None, "num_experts_per_tok": 1},
    "biases": {"attention_bias": True, "clip_qkv": 1.0, "rms_norm_eps": 1e-3},
    "tied": {"tie_word_embeddings": True, "rope_scaling": LINEAR, "num_experts_per_tok": 7},
}
WRONG: list[Mistake] = [
    ({"clip_qkv": 0}, "clip_qkv", "E0306", "above 0"),
    ({"clip_qkv": -8.0}, "clip_qkv", "E0306", "above 0"),
    ({"num_experts_per_tok": 8}, "num_experts_per_tok", "E0308", ""),
    ({"sliding_window": 4}, "sliding_window", "E0304", "unknown field"),
    ({"norm_topk_prob": None}, "norm_topk_prob", "E0306", "true or false"),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor", "E0307", "part of a head"),
]
