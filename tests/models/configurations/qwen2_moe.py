"""Tiny configurations of Qwen2-MoE, and mistakes in them."""

from __future__ import annotations

from . import llama
from .configuration import LINEAR, Fields, Mistake

BASE: Fields = llama.BASE | {
    "num_experts": 7,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 18,
    "shared_expert_intermediate_size": 26,
}
FULL, SLIDING = "full_attention", "sliding_attention"
WINDOW: Fields = {"use_sliding_window": True, "sliding_window": 5}
# Fields of windows mean nothing without it.
READ_WITH: Fields = {"use_sliding_window": True}

# What each case changes of the base.
CHANGES: dict[str, Fields] = {
    "plain": {"num_hidden_layers": 2},
    "multiple": {"shared_expert_intermediate_size": 36, "norm_topk_prob": True}
    | {"num_hidden_layers": 1},
    "no-biases": {"qkv_bias": False, "mlp_only_layers": [0], "num_hidden_layers": 2},
    "every-second": {"decoder_sparse_step": 2, "num_key_value_heads": 3, "rope_scaling": LINEAR},
    "windows": WINDOW | {"num_hidden_layers": 4, "mlp_only_layers": [1, 2]},
    "first-window": WINDOW | {"max_window_layers": 1},
    "listed": WINDOW | {"layer_types": [FULL, SLIDING, SLIDING], "decoder_sparse_step": 2},
    "tied": {"tie_word_embeddings": True, "vocab_size": 97, "num_hidden_layers": 1},
}
WRONG: list[Mistake] = [
    ({"layer_types": [FULL, FULL, SLIDING]}, "layer_types", "E0308", "use_sliding_window"),
    (WINDOW | {"sliding_window": 0}, "sliding_window", "E0306", "1 to"),
    (WINDOW | {"layer_types": [FULL] * 4}, "layer_types", "E0308", "lists 4 layers"),
    ({"shared_expert_intermediate_size": 0}, "shared_expert_intermediate_size", "E0306", ""),
    ({"num_experts": 0}, "num_experts", "E0306", "1 to"),
    ({"decoder_sparse_step": 0}, "decoder_sparse_step", "E0306", ""),
    ({"qkv_bias": None}, "qkv_bias", "E0306", ""),
]
