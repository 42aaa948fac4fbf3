"""Tiny configurations of Qwen3, and mistakes in them."""

from __future__ import annotations

from . import llama
from .configuration import LLAMA3, Fields, Mistake

BASE: Fields = llama.BASE | {"head_dim": 10, "num_attention_heads": 6, "num_key_value_heads": 2}
FULL, SLIDING = "full_attention", "sliding_attention"
WINDOW: Fields = {"use_sliding_window": True, "sliding_window": 5}
# Fields of windows mean nothing without it.
READ_WITH: Fields = {"use_sliding_window": True}

# What each case changes of the base.
CHANGES: dict[str, Fields] = {
    "plain": {"num_hidden_layers": 2, "num_key_value_heads": 1, "rope_scaling": LLAMA3},
    "last-windows": WINDOW
    | {"max_window_layers": 1, "head_dim": 18, "attention_bias": True}
    | {"num_hidden_layers": 2},
    "listed-tied": WINDOW
    | {"layer_types": [SLIDING, FULL], "num_hidden_layers": 2}
    | {"tie_word_embeddings": True, "vocab_size": 97, "num_key_value_heads": 6}
    | {"rms_norm_eps": 1e-3},
}
WRONG: list[Mistake] = [
    ({"layer_types": [SLIDING] * 3}, "layer_types", "E0308", "use_sliding_window"),
    (WINDOW | {"layer_types": ["chunked"] * 3}, "layer_types", "E0306", "a list of"),
    ({"head_dim": None}, "head_dim", "E0306", "whole number"),
    ({"head_dim": 7}, "head_dim", "E0308", "odd"),
    ({"num_key_value_heads": 4}, "num_attention_heads", "E0308", "not a multiple"),
    ({"attention_bias": None}, "attention_bias", "E0306", "one of"),
    ({"mlp_bias": True}, "mlp_bias", "E0307", "no biases"),
]
