"""Tiny configurations of Phi-3, and mistakes in them."""

from __future__ import annotations

from . import llama
from .configuration import YARN, Fields, Mistake

BASE: Fields = llama.BASE | {"pad_token_id": 0}
SHORT, LONG = [1.0, 1.1, 1.25, 1.3, 1.5, 2.0, 2.5], [1.0, 1.4, 2.0, 3.5, 7.0, 20.0, 31.5]
LONGROPE: Fields = {"type": "longrope", "short_factor": SHORT, "long_factor": LONG}

# What each case changes of the base. The original length is 4096 where none is given.
CHANGES: dict[str, Fields] = {
    "window": {"sliding_window": 5, "rms_norm_eps": 1e-3, "num_hidden_layers": 2},
    "long": {"rope_scaling": LONGROPE, "original_max_position_embeddings": 4},
    "short": {"rope_scaling": LONGROPE, "num_key_value_heads": None, "num_hidden_layers": 1},
    "gain": {"rope_scaling": LONGROPE | {"attention_factor": 1.4, "factor": 9.0}}
    | {"original_max_position_embeddings": 12, "num_hidden_layers": 1, "rope_theta": 500.0},
    "part": {"hidden_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
    | {"partial_rotary_factor": 0.5, "original_max_position_embeddings": 10}
    | {"rope_scaling": LONGROPE | {"short_factor": SHORT[:3], "long_factor": LONG[4:]}}
    | {"tie_word_embeddings": True, "vocab_size": 97, "num_hidden_layers": 2},
}
NESTED = LONGROPE | {"original_max_position_embeddings": 8}
WRONG: list[Mistake] = [
    (
        {"rope_scaling": LONGROPE | {"long_factor": None}},
        "rope_scaling",
        "E0305",
        "lacks `long_fac",
    ),
    ({"rope_scaling": LONGROPE | {"long_factor": 2}}, "rope_scaling", "E0306", "a list of"),
    ({"rope_scaling": LONGROPE | {"short_factor": [0] * 7}}, "rope_scaling", "E0306", "above 0"),
    ({"rope_scaling": LONGROPE | {"long_factor": LONG[1:]}}, "rope_scaling", "E0308", "6 factors"),
    (
        {"rope_scaling": {**LONGROPE, "rope_type": "longrope", "type": "yarn"}},
        "rope_scaling",
        "E0308",
        "disagree",
    ),
    ({"rope_scaling": LONGROPE | {"attention_factor": 0.0}}, "rope_scaling", "E0306", "above 0"),
    ({"rope_scaling": LONGROPE | {"short_mscale": 1.1}}, "rope_scaling", "E0307", "not a field"),
    ({"rope_scaling": YARN}, "rope_scaling", "E0307", "`yarn` is not supported"),
    (
        {"rope_scaling": NESTED, "original_max_position_embeddings": 9},
        "rope_scaling",
        "E0308",
        "is `9` and, in rope_scaling, `8`",
    ),
    (
        {"rope_scaling": LONGROPE, "original_max_position_embeddings": None},
        "original_max_position_embeddings",
        "E0306",
        "1 to",
    ),
    ({"partial_rotary_factor": 0.4}, "partial_rotary_factor", "E0308", "no number of pairs"),
    ({"hidden_size": 45}, "", "E0308", "no number of pairs"),
    ({"lm_head_bias": True}, "lm_head_bias", "E0307", "logits"),
    ({"sliding_window": 0}, "sliding_window", "E0306", "1 to"),
]
