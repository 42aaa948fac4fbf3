"""Tiny configurations of Llama, and mistakes in them."""

from __future__ import annotations

from .configuration import DEEPSEEK_YARN, LINEAR, LLAMA3, MISSING, YARN, Fields, Mistake

BASE: Fields = {
    "vocab_size": 101,
    "hidden_size": 42,
    "intermediate_size": 58,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "max_position_embeddings": 128,
}
BOTH_TYPES = {"type": "yarn", "rope_type": "linear", "factor": 2}

# What each case changes of the base.
CHANGES: dict[str, Fields] = {
    "plain": {},
    "heads-5": {"hidden_size": 50, "num_attention_heads": 5, "num_key_value_heads": 5},
    "head-dim": {"head_dim": 10, "num_attention_heads": 6, "num_key_value_heads": 2},
    "biases": {"attention_bias": True, "mlp_bias": True},
    "attention-bias": {"attention_bias": True, "rms_norm_eps": 1e-3},
    "tied": {"tie_word_embeddings": True, "vocab_size": 97},
    "llama3": {"rope_scaling": LLAMA3, "rope_theta": 500.0},
    "linear": {"rope_scaling": LINEAR},
    "yarn": {"rope_scaling": YARN, "rope_theta": 5000.0},
    "yarn-full": {"rope_scaling": {**DEEPSEEK_YARN, "truncate": False}},
    "yarn-plain-mscale": {"rope_parameters": {**YARN, "rope_type": "yarn", "mscale": 0.7}},
    "gelu": {"hidden_act": "gelu", "num_hidden_layers": 1},
    "gelu-tanh": {"hidden_act": "gelu_pytorch_tanh", "rope_theta": 100.0},
}
WRONG: list[Mistake] = [
    ({"hiden_act": "silu"}, "hiden_act", "E0304", "unknown field"),
    ({"\u2028x": 1}, "\u2028x", "E0304", "unknown field"),
    ({"hidden_size": MISSING}, "", "E0305", "lacks `hidden_size`"),
    ({"hidden_size": None}, "hidden_size", "E0306", "must be a whole number"),
    ({"hidden_size": 42.0}, "hidden_size", "E0306", "must be a whole number"),
    ({"hidden_size": True}, "hidden_size", "E0306", "must be a whole number"),
    ({"vocab_size": 2**40}, "vocab_size", "E0306", "must be a whole number"),
    ({"vocab_size": "__import__('os')"}, "vocab_size", "E0306", "must be a whole"),
    ({"num_hidden_layers": 2**31 - 1}, "num_hidden_layers", "E0306", "100000"),
    ({"num_hidden_layers": 0}, "num_hidden_layers", "E0306", "must be a whole number"),
    ({"rms_norm_eps": -1e-6}, "rms_norm_eps", "E0306", "must be a number above 0"),
    ({"hidden_act": "swiglu"}, "hidden_act", "E0306", "one of `silu`"),
    ({"hidden_act": ["silu"]}, "hidden_act", "E0306", "one of `silu`"),
    ({"attention_bias": "yes"}, "attention_bias", "E0306", "one of `false`"),
    ({"attention_bias": 1}, "attention_bias", "E0306", "one of `false`"),
    ({"mlp_bias": 0}, "mlp_bias", "E0306", "true or false"),
    ({"dtype": "int8"}, "dtype", "E0306", "one of `bfloat16`"),
    ({"dtype": "float16", "torch_dtype": "float32"}, "torch_dtype", "E0308", "disagree"),
    ({"sliding_window": 4096}, "sliding_window", "E0307", "whole context"),
    ({"is_encoder_decoder": True}, "is_encoder_decoder", "E0307", "encoder"),
    ({"architectures": ["LlamaForQuestionAnswering"]}, "architectures", "E0307", ""),
    (
        {"quantization_config": {"quant_method": "gptq"}},
        "quantization_config",
        "E0307",
        "",
    ),
    (
        {"quantization_config": {"quant_method": "mxfp4"}},  # which packed experts alone have
        "quantization_config",
        "E0307",
        "quant_method `mxfp4`",
    ),
    ({"num_key_value_heads": 2}, "num_attention_heads", "E0308", "not a multiple"),
    ({"hidden_size": 44}, "hidden_size", "E0308", "not a multiple"),
    ({"head_dim": 7}, "head_dim", "E0308", "odd"),
    ({"rope_scaling": {"type": "longrope"}}, "rope_scaling", "E0307", "`longrope`"),
    ({"rope_scaling": {"type": "dynamic", "factor": 2}}, "rope_scaling", "E0307", ""),
    ({"rope_scaling": {"type": []}}, "rope_scaling", "E0307", "not supported"),
    ({"rope_scaling": {"type": "linear"}}, "rope_scaling", "E0305", "lacks `factor`"),
    ({"rope_scaling": {**YARN, "mscal": 1}}, "rope_scaling", "E0307", "`mscal`"),
    ({"rope_scaling": {**YARN, "attention_factor": 1.5}}, "rope_scaling", "E0307", ""),
    ({"rope_scaling": {**YARN, "factor": "4"}}, "rope_scaling", "E0306", "above 0"),
    ({"rope_scaling": BOTH_TYPES}, "rope_scaling", "E0308", "disagree"),
    ({"rope_scaling": {**LLAMA3, "low_freq_factor": None}}, "rope_scaling", "E0305", ""),
    ({"rope_scaling": [1]}, "rope_scaling", "E0306", "an object"),
    ({"rope_parameters": {"full": {}}}, "rope_parameters", "E0307", "`full`"),
    ({"rope_theta": 0}, "rope_theta", "E0306", "above 0"),
    (
        {"rope_theta": 5, "rope_parameters": {"rope_theta": 6}},
        "rope_parameters",
        "E0308",
        "",
    ),
    ({"rope_scaling": YARN, "rope_parameters": LLAMA3}, "rope_parameters", "E0308", ""),
    ({"partial_rotary_factor": 0.5}, "partial_rotary_factor", "E0307", "part of a head"),
]
