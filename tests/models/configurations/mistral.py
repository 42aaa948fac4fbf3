"""Tiny configurations of Mistral, and mistakes in them."""

from __future__ import annotations

from . import llama
from .configuration import LINEAR, YARN, Fields, Mistake

BASE: Fields = llama.BASE | {"sliding_window": 5}

# What each case changes of the base.
CHANGES: dict[str, Fields] = {
    "plain": {"num_hidden_layers": 2},
    "wide-heads": {"head_dim": 22, "num_attention_heads": 4, "num_key_value_heads": 2}
    | {"rope_scaling": LINEAR, "hidden_act": "gelu", "num_hidden_layers": 2},
    "whole-context": {"sliding_window": None, "num_key_value_heads": 3, "num_hidden_layers": 1}
    | {"rope_parameters": {**YARN, "rope_type": "yarn", "rope_theta": 777.0}}
    | {"tie_word_embeddings": True, "vocab_size": 97, "rms_norm_eps": 1e-3},
}
WRONG: list[Mistake] = [
    ({"sliding_window": 0}, "sliding_window", "E0306", "1 to"),
    ({"sliding_window": "5"}, "sliding_window", "E0306", "whole number"),
    ({"layer_types": ["full_attention"] * 3}, "layer_types", "E0307", "every layer"),
    ({"attention_bias": True}, "attention_bias", "E0307", "no biases"),
    ({"mlp_bias": True}, "mlp_bias", "E0307", "no biases"),
    ({"num_key_value_heads": 2}, "num_attention_heads", "E0308", "not a multiple"),
    ({"head_dim": 9}, "head_dim", "E0308", "odd"),
]
