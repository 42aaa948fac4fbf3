"""What the configurations of all families are written with."""

from __future__ import annotations

from typing import Any

Fields = dict[str, Any]
Mistake = tuple[Fields, str, str, str]
"""What is changed of a base, the field that is wrong, the error's code, and words of it."""

MISSING = object()
"""The value of a field that is left out."""
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "original_max_position_embeddings": 32,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}
LINEAR = {"rope_type": "linear", "factor": 3.0}
YARN = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
DEEPSEEK_YARN = {**YARN, "beta_fast": 16, "beta_slow": 2, "mscale": 0.8, "mscale_all_dim": 0.6}
