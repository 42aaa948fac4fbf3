"""Tiny configurations of Mixtral, and mistakes in them."""

from __future__ import annotations

from . import llama
from .configuration import LINEAR, LLAMA3, YARN, Fields, Mistake

BASE: Fields = llama.BASE | {
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "intermediate_size": 22,
}

# What each case changes of the base.
CHANGES: dict[str, Fields] = {
    "plain": {},
    "heads-5": {"hidden_size": 50, "num_attention_heads": 5, "num_key_value_heads": 5},
    "head-dim": {"head_dim": 10, "num_attention_heads": 6, "num_key_value_heads": 2},
    "window": {"sliding_window": 5},
    "window-1": {"sliding_window": 1, "num_hidden_layers": 1},
    "top-1": {"num_experts_per_tok": 1},
    "all-experts": {"num_experts_per_tok": 5},
    "tied": {"tie_word_embeddings": True, "vocab_size": 97},
    "linear": {"rope_scaling": LINEAR, "rope_theta": 500.0},
    "yarn": {"rope_scaling": YARN, "rms_norm_eps": 1e-3, "head_dim": 12},
    "llama3": {"rope_parameters": {**LLAMA3, "rope_theta": 300.0}},
    "gelu": {"hidden_act": "gelu"},
}
WRONG: list[Mistake] = [
    ({"num_experts_per_tok": 6}, "num_experts_per_tok", "E0308", "exceeds"),
    ({"num_experts": 6}, "num_experts", "E0308", "disagree"),
    ({"sliding_window": 0}, "sliding_window", "E0306", "must be a whole number"),
    ({"attention_bias": True}, "attention_bias", "E0307", "no biases"),
]
