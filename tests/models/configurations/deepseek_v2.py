"""Tiny configurations of DeepSeek-V2, and mistakes in them."""

from __future__ import annotations

from .configuration import DEEPSEEK_YARN, LINEAR, MISSING, YARN, Fields, Mistake

BASE: Fields = {
    "vocab_size": 103,
    "hidden_size": 42,
    "intermediate_size": 58,
    "moe_intermediate_size": 18,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 3,
    "max_position_embeddings": 128,
    "q_lora_rank": None,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 14,
    "n_routed_experts": 9,
    "num_experts_per_tok": 4,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
}
GROUPED = {"topk_method": "group_limited_greedy", "n_group": 3, "topk_group": 2}

# What each case changes of the base.
CHANGES: dict[str, Fields] = {
    "plain": {},
    "q-lora": {"q_lora_rank": 20, "rms_norm_eps": 1e-3},
    "grouped": {**GROUPED, "routed_scaling_factor": 3.0},
    "grouped-q-lora": {**GROUPED, "q_lora_rank": 20, "topk_group": 1, "num_experts_per_tok": 2},
    "unused-groups": {"n_group": 3, "topk_group": 1},
    "shared-0": {"n_shared_experts": 0},
    "shared-1": {"n_shared_experts": 1, "routed_scaling_factor": 0.5},
    "all-sparse": {"first_k_dense_replace": 0},
    "all-dense": {"first_k_dense_replace": 5},
    "biases": {"attention_bias": True, "q_lora_rank": 20},
    "bias-no-lora": {"attention_bias": True},
    "tied": {"tie_word_embeddings": True, "vocab_size": 97},
    "yarn": {"rope_scaling": DEEPSEEK_YARN, "rope_theta": 5000.0},
    "yarn-equal": {"rope_scaling": {**YARN, "mscale": 0.707, "mscale_all_dim": 0.707}},
    "linear": {"rope_scaling": LINEAR},
    "heads-5": {"hidden_size": 40, "num_attention_heads": 5, "num_key_value_heads": 5},
    "said-normalized": {"norm_topk_prob": True},
}
WRONG: list[Mistake] = [
    ({"topk_method": "noaux_tc"}, "topk_method", "E0306", "`greedy`"),
    ({"scoring_func": "sigmoid"}, "scoring_func", "E0307", "softmax"),
    ({"moe_layer_freq": 2}, "moe_layer_freq", "E0307", "dense layers"),
    ({"mlp_bias": True}, "mlp_bias", "E0307", "not modelled"),
    ({"num_experts_per_tok": MISSING}, "", "E0305", "num_experts_per_tok"),
    ({"qk_head_dim": 17}, "qk_head_dim", "E0308", "is not qk_nope_head_dim"),
    ({"head_dim": 14}, "head_dim", "E0308", "is not qk_rope_head_dim"),
    ({"num_key_value_heads": 1}, "num_key_value_heads", "E0308", "is not"),
    ({**GROUPED, "n_group": 2}, "n_routed_experts", "E0308", "not a multiple"),
    ({**GROUPED, "topk_group": 4}, "topk_group", "E0308", "exceeds n_group"),
    ({**GROUPED, "topk_group": 1}, "num_experts_per_tok", "E0308", "exceeds"),
]
