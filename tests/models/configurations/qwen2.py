"""Tiny configurations of Qwen2, and mistakes in them."""

from __future__ import annotations

from . import llama
from .configuration import YARN, Fields, Mistake

BASE: Fields = llama.BASE
FULL, SLIDING = "full_attention", "sliding_attention"
WINDOW: Fields = {"use_sliding_window": True, "sliding_window": 5}
# Fields of windows mean nothing without it.
READ_WITH: Fields = {"use_sliding_window": True}

# What each case changes of the base.
CHANGES: dict[str, Fields] = {
    "plain": {"num_key_value_heads": 3, "max_window_layers": 1, "num_hidden_layers": 2},
    "last-windows": WINDOW | {"max_window_layers": 1, "head_dim": 10, "num_hidden_layers": 2},
    "listed": WINDOW | {"layer_types": [SLIDING, FULL, SLIDING], "rope_scaling": YARN},
    "all-windows": WINDOW
    | {"max_window_layers": 0, "num_hidden_layers": 1, "vocab_size": 97}
    | {"tie_word_embeddings": True, "hidden_size": 50, "num_attention_heads": 5}
    | {"num_key_value_heads": 5, "sliding_window": 3},
}
WRONG: list[Mistake] = [
    ({"layer_types": [FULL, FULL, SLIDING]}, "layer_types", "E0308", "use_sliding_window"),
    (WINDOW | {"layer_types": [FULL] * 4}, "layer_types", "E0308", "lists 4 layers"),
    (WINDOW | {"layer_types": []}, "layer_types", "E0308", "lists 0 layers"),
    (WINDOW | {"max_window_layers": 0, "sliding_window": None}, "sliding_window", "E0306", ""),
    ({"max_window_layers": -1}, "max_window_layers", "E0306", "0 to"),
    ({"use_sliding_window": None}, "use_sliding_window", "E0306", "true or false"),
    ({"attention_bias": False}, "attention_bias", "E0307", "have biases"),
]
