"""Gemma 2: norms before and after each step, alternating windows, and soft caps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..spec.relations import Even, Multiple
from . import names
from .family import Family
from .field import Field, Fixed, Power
from .general import ACTIVATIONS, ATTENTION_BIAS, FULL, LAYER_TYPES, SLIDING
from .rope import RopeField

ATTENTION = {
    "kind": "gqa",
    "heads": Field("num_attention_heads", default=8),
    "kv_heads": Field("num_key_value_heads", default=4),
    "head_dim": Field("head_dim", default=256),
    "scale": Power("query_pre_attn_scalar", default=256, exponent=-0.5),
    "softcap": Field("attn_logit_softcapping", "number", default=50.0, null=None, unless=None),
    "bias": ATTENTION_BIAS,
    "rope": RopeField(theta=10000.0),
}


def _steps(attention: str) -> list[dict[str, str]]:
    uses = (attention, "mlp")
    return [{"norm": "rms", "use": use, "post_norm": "rms"} for use in uses]


class Gemma2(Family):
    """Gemma 2 (arXiv 2408.00118)."""

    name = "gemma2"
    blocks = {"sliding": _steps("local"), "full": _steps("attention")}
    parts = {
        "rms": {
            "kind": "rms_norm",
            "eps": Field("rms_norm_eps", "number", default=1e-6),
            "offset": 1,
        },
        "local": ATTENTION | {"window": Field("sliding_window", default=4096)},
        "attention": ATTENTION,
        "mlp": {
            "kind": "swiglu",
            "width": Field("intermediate_size", default=9216),
            "activation": Field(
                "hidden_activation", "word", default="gelu_pytorch_tanh", words=ACTIVATIONS
            ),
        },
    }
    head = {
        "tied": Field("tie_word_embeddings", "flag", default=True),
        "softcap": Field("final_logit_softcapping", "number", default=30.0, null=None, unless=None),
    }
    embed = {"scale": Power("hidden_size", exponent=0.5), "stored": True}
    schedule = (LAYER_TYPES,)
    types = {SLIDING: "sliding", FULL: "full"}
    # transformers reads `hidden_activation`, whatever `hidden_act` says.
    ignored = frozenset({"cache_implementation", "hidden_act"})
    fixed = {
        "use_bidirectional_attention": Fixed((False,), "tokens would see those after them"),
    }
    relations = (
        Multiple("num_attention_heads", "num_key_value_heads"),
        Even("head_dim"),
    )
    tensors = (
        names.ENDS
        | names.GQA
        | names.SWIGLU
        | {
            "post_norm.0": names.LAYER + "post_attention_layernorm.weight",
            "norm.1": names.LAYER + "pre_feedforward_layernorm.weight",
            "post_norm.1": names.LAYER + "post_feedforward_layernorm.weight",
        }
    )
    droppable = (names.INV_FREQ,)

    def unlisted(self, values: Mapping[str, Any]) -> Sequence[str]:
        return [FULL if i % 2 else SLIDING for i in range(values["num_hidden_layers"])]
