"""Tiny configurations of Gemma 2, and mistakes in them."""

from __future__ import annotations

from .configuration import YARN, Fields, Mistake

BASE: Fields = {
    "vocab_size": 101,
    "hidden_size": 44,
    "intermediate_size": 58,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "query_pre_attn_scalar": 7,
    "sliding_window": 5,
    "attn_logit_softcapping": 2.0,
    "final_logit_softcapping": 3.0,
    "max_position_embeddings": 128,
}
FULL, SLIDING = "full_attention", "sliding_attention"

# What each case changes of the base.
CHANGES: dict[str, Fields] = {
    "plain": {},
    "no-caps": {"attn_logit_softcapping": None, "final_logit_softcapping": None},
    "untied": {"tie_word_embeddings": False, "hidden_size": 49, "num_attention_heads": 7}
    | {"num_key_value_heads": 1},
    "biases": {"attention_bias": True, "rms_norm_eps": 1e-3, "num_hidden_layers": 2},
    "full-first": {"layer_types": [FULL, SLIDING, FULL], "sliding_window": 3},
    "all-full": {"layer_types": [FULL, FULL, FULL]},
    "yarn-gelu": {"rope_scaling": YARN, "hidden_activation": "gelu", "num_hidden_layers": 2},
}
WRONG: list[Mistake] = [
    ({"layer_types": [FULL]}, "layer_types", "E0308", "lists 1 layers, there are 3"),
    ({"layer_types": ["chunked_attention"] * 3}, "layer_types", "E0306", "full_attention"),
    ({"use_bidirectional_attention": True}, "use_bidirectional_attention", "E0307", "after"),
    ({"sliding_window": None}, "sliding_window", "E0306", "whole number"),
    ({"query_pre_attn_scalar": 0}, "query_pre_attn_scalar", "E0306", "1 to"),
    ({"final_logit_softcapping": 0.0}, "final_logit_softcapping", "E0306", "above 0"),
    ({"hidden_activation": None}, "hidden_activation", "E0306", "gelu_pytorch_tanh"),
    ({"num_key_value_heads": 3}, "num_attention_heads", "E0308", "not a multiple"),
]
