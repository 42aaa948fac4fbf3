"""Tiny configurations of gpt-oss, and mistakes in them."""

from __future__ import annotations

from . import llama
from .configuration import LLAMA3, YARN, Fields, Mistake

FULL, SLIDING = "full_attention", "sliding_attention"
ROPE = {**YARN, "beta_fast": 16, "truncate": False}

BASE: Fields = llama.BASE | {
    "head_dim": 10,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "intermediate_size": 22,
    "num_local_experts": 5,
    "num_experts_per_tok": 2,
    "sliding_window": 5,
    "swiglu_limit": 0.4,
    "rope_scaling": ROPE,
}

# What each case changes of the base.
CHANGES: dict[str, Fields] = {
    "plain": {},
    "types": {"layer_types": [FULL, FULL, SLIDING], "sliding_window": 4},
    "all-full": {"layer_types": [FULL], "num_hidden_layers": 1, "swiglu_alpha": 1.0},
    "all-sliding": {"layer_types": [SLIDING] * 2, "num_hidden_layers": 2, "head_dim": 6},
    "rope-left-out": {"rope_scaling": None, "swiglu_limit": 7.0, "max_position_embeddings": 64},
    "no-biases": {"attention_bias": False, "swiglu_alpha": 0.7, "tie_word_embeddings": True},
    "all-experts": {"num_experts_per_tok": 5, "rope_scaling": LLAMA3},
}
CHANGES["all-sliding"] |= {"sliding_window": 1, "num_experts_per_tok": 1}
WRONG: list[Mistake] = [
    ({"layer_types": [FULL, SLIDING]}, "layer_types", "E0308", "lists 2 layers, there are 3"),
    ({"layer_types": ["chunked_attention"] * 3}, "layer_types", "E0306", "a list of"),
    ({"layer_types": FULL}, "layer_types", "E0306", "a list of"),
    ({"head_dim": None}, "head_dim", "E0306", "must be a whole number"),
    ({"sliding_window": None}, "sliding_window", "E0306", "must be a whole number"),
    ({"hidden_act": "gelu"}, "hidden_act", "E0307", "no other activation"),
    ({"swiglu_limit": 0}, "swiglu_limit", "E0306", "above 0"),
    ({"experts_per_token": 3}, "experts_per_token", "E0308", "disagree"),
    (
        {"quantization_config": {"quant_method": "gptq"}},
        "quantization_config",
        "E0307",
        "quant_method `gptq`",
    ),
]
