"""Tiny configurations of Qwen3-MoE, and mistakes in them."""

from __future__ import annotations

from . import llama
from .configuration import LLAMA3, YARN, Fields, Mistake

BASE: Fields = llama.BASE | {
    "head_dim": 10,
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 18,
    "norm_topk_prob": True,
}

# What each case changes of the base.
CHANGES: dict[str, Fields] = {
    "plain": {},
    "unnormalized": {"norm_topk_prob": False},
    "heads-5": {"num_attention_heads": 5, "num_key_value_heads": 5, "head_dim": 6},
    "groups": {"num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 12},
    "default-head-dim": {"head_dim": 14, "hidden_size": 42},
    "dense-first": {"mlp_only_layers": [0, 2]},
    "every-second": {"decoder_sparse_step": 2, "num_hidden_layers": 5},
    "all-dense": {"mlp_only_layers": [0, 1, 2]},
    "biases": {"attention_bias": True, "rms_norm_eps": 1e-3},
    "tied": {"tie_word_embeddings": True, "vocab_size": 97},
    "yarn": {"rope_scaling": YARN, "rope_theta": 5000.0},
    "llama3": {"rope_scaling": LLAMA3},
    "top-1": {"num_experts_per_tok": 1, "norm_topk_prob": False},
    "unused-window": {"sliding_window": 4, "use_sliding_window": False},
}
WRONG: list[Mistake] = [
    ({"use_sliding_window": True}, "use_sliding_window", "E0307", "versions"),
    ({"mlp_only_layers": [-1]}, "mlp_only_layers", "E0306", "layer numbers"),
    ({"decoder_sparse_step": 0}, "decoder_sparse_step", "E0306", ""),
    ({"num_key_value_heads": None}, "num_key_value_heads", "E0306", ""),
]
