"""Tiny configurations of DeepSeek-V3, and mistakes in them."""

from __future__ import annotations

from . import deepseek_v2
from .configuration import DEEPSEEK_YARN, YARN, Fields, Mistake

BASE: Fields = deepseek_v2.BASE | {
    "vocab_size": 107,
    "q_lora_rank": 20,
    "n_routed_experts": 12,
    "n_group": 3,
    "topk_group": 2,
    "n_shared_experts": 1,
}

# What each case changes of the base.
CHANGES: dict[str, Fields] = {
    "plain": {},
    "no-lora": {"q_lora_rank": None, "rms_norm_eps": 1e-3},
    "one-group": {"n_group": 1, "topk_group": 1},
    "unnormalized": {"norm_topk_prob": False, "routed_scaling_factor": 1.5},
    "shared-0": {"n_shared_experts": 0, "topk_group": 1, "num_experts_per_tok": 3},
    "shared-2": {"n_shared_experts": 2, "n_group": 4, "topk_group": 3},
    "all-sparse": {"first_k_dense_replace": 0},
    "halves": {"rope_interleave": False},
    "halves-yarn": {"rope_interleave": False, "rope_scaling": DEEPSEEK_YARN},
    "biases": {"attention_bias": True},
    "bias-no-lora": {"attention_bias": True, "q_lora_rank": None},
    "tied": {"tie_word_embeddings": True, "vocab_size": 97},
    "yarn": {"rope_scaling": DEEPSEEK_YARN, "rope_theta": 5000.0},
    "yarn-all-dim": {"rope_scaling": {**YARN, "mscale_all_dim": 1.0}},
    "no-mtp": {"num_nextn_predict_layers": 0, "num_hidden_layers": 2},
    "heads-5": {"hidden_size": 40, "num_attention_heads": 5, "num_key_value_heads": 5},
}
WRONG: list[Mistake] = [
    ({"qk_rope_head_dim": 5}, "qk_rope_head_dim", "E0308", "odd"),
    (
        {"n_group": 12, "topk_group": 4},
        "n_routed_experts",
        "E0308",
        "less than 2 times",
    ),
    ({"topk_method": "greedy"}, "topk_method", "E0307", "score and bias"),
    ({"scoring_func": "softmax"}, "scoring_func", "E0307", "sigmoid"),
]
