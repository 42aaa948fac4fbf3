"""Fields that a configuration of any family has, and those that mean nothing to any."""

from __future__ import annotations

from collections.abc import Mapping

from .field import Field, Fixed

DTYPES: Mapping[str | bool, object] = {
    name: name for name in ("bfloat16", "float16", "float32", "float64")
}
ACTIVATIONS: Mapping[str | bool, object] = {
    "silu": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
}
ACTIVATION = Field("hidden_act", "word", default="silu", unless="silu", words=ACTIVATIONS)
SLIDING, FULL = "sliding_attention", "full_attention"
LAYER_TYPES = Field(
    "layer_types", "kinds", default=None, null=None, words={SLIDING: SLIDING, FULL: FULL}
)
ATTENTION_BIAS = Field(
    "attention_bias", "flag", default=False, unless="none", words={False: "none", True: "all"}
)
LAYERS = Field("num_hidden_layers", most=100_000)
TOP: Mapping[str, Field] = {
    "dtype": Field(
        "dtype", "word", default="float32", null="float32", words=DTYPES, aliases=("torch_dtype",)
    ),
    "vocab_size": Field("vocab_size"),
    "hidden_size": Field("hidden_size"),
    "max_positions": Field("max_position_embeddings"),
}
HEAD: Mapping[str, Field] = {"tied": Field("tie_word_embeddings", "flag", default=False)}

# Fields that any configuration may have, at these values; but where a family reads them itself.
FIXED: Mapping[str, Fixed] = {
    "is_encoder_decoder": Fixed((False,), "an encoder would come before it"),
    "partial_rotary_factor": Fixed((1, 1.0), "only part of a head would be rotated"),
}
# Fields of any configuration that change nothing in what the model computes.
IGNORED = frozenset(
    [
        "_attn_implementation_autoset",
        "_name_or_path",
        "architectures",
        "attention_dropout",
        "auto_map",
        "bos_token_id",
        "chunk_size_feed_forward",
        "do_sample",
        "eos_token_id",
        "id2label",
        "initializer_range",
        "label2id",
        "max_length",
        "max_new_tokens",
        "model_type",
        "name_or_path",
        "num_beams",
        "output_attentions",
        "output_hidden_states",
        "pad_token_id",
        "pretraining_tp",
        "problem_type",
        "repetition_penalty",
        "return_dict",
        "temperature",
        "tie_last_hidden_states",
        "tokenizer_class",
        "top_k",
        "top_p",
        "transformers_version",
        "use_cache",
    ]
)
ROPE = frozenset({"rope_theta", "rope_scaling", "rope_parameters"})
