"""Qwen3: normalized queries and keys, and windows in the last layers, if any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..spec.relations import Even, Multiple
from . import names, windows
from .family import Family
from .field import Field, Fixed, Same
from .general import ACTIVATION, ATTENTION_BIAS
from .rope import RopeField

ATTENTION = {
    "kind": "gqa",
    "heads": Field("num_attention_heads"),
    "kv_heads": Field("num_key_value_heads", default=32, null=Same("num_attention_heads")),
    "head_dim": Field("head_dim", default=128),
    "qk_norm": "rms",
    "bias": ATTENTION_BIAS,
    "rope": RopeField(theta=10000.0),
}


class Qwen3(Family):
    """The dense models of Qwen3 (arXiv 2505.09388)."""

    name = "qwen3"
    blocks = {
        "full": [{"norm": "rms", "use": "attention"}, {"norm": "rms", "use": "mlp"}],
        "sliding": [{"norm": "rms", "use": "local"}, {"norm": "rms", "use": "mlp"}],
    }
    parts = {
        "rms": {"kind": "rms_norm", "eps": Field("rms_norm_eps", "number", default=1e-6)},
        "attention": ATTENTION,
        "local": ATTENTION | {"window": Field("sliding_window", default=4096)},
        "mlp": {"kind": "swiglu", "width": Field("intermediate_size"), "activation": ACTIVATION},
    }
    schedule = windows.SCHEDULE
    types = windows.TYPES
    fixed = {
        "mlp_bias": Fixed((False,), "its feed-forwards have no biases"),
    }
    relations = (
        Multiple("num_attention_heads", "num_key_value_heads"),
        Even("head_dim"),
    )
    tensors = names.ENDS | names.GQA | names.SWIGLU
    droppable = (names.INV_FREQ,)

    def unlisted(self, values: Mapping[str, Any]) -> Sequence[str]:
        return windows.unlisted(values)

    def schedule_of(self, layers: Sequence[str]) -> dict[str, Any]:
        return windows.schedule_of(super().schedule_of(layers)["layer_types"])

    def refusals(self, values: Mapping[str, Any]) -> Mapping[str, str]:
        return windows.refusals(values)
