"""Mistral: a Llama, most often with a sliding window in every layer."""

from __future__ import annotations

from ..spec.relations import Even, Multiple
from . import names
from .family import Family
from .field import Field, Fixed, Ratio, Same
from .general import ACTIVATION
from .rope import RopeField

HEAD_DIM = Ratio("hidden_size", "num_attention_heads")


class Mistral(Family):
    """Mistral 7B (arXiv 2310.06825), Nemo and Small."""

    name = "mistral"
    blocks = {"layer": [{"norm": "rms", "use": "attention"}, {"norm": "rms", "use": "mlp"}]}
    parts = {
        "rms": {"kind": "rms_norm", "eps": Field("rms_norm_eps", "number", default=1e-6)},
        "attention": {
            "kind": "gqa",
            "heads": Field("num_attention_heads"),
            "kv_heads": Field("num_key_value_heads", default=8, null=Same("num_attention_heads")),
            "head_dim": Field("head_dim", default=HEAD_DIM, null=HEAD_DIM),
            "window": Field("sliding_window", default=4096, null=None, unless=None),
            "rope": RopeField(theta=10000.0),
        },
        "mlp": {"kind": "swiglu", "width": Field("intermediate_size"), "activation": ACTIVATION},
    }
    fixed = {
        "attention_bias": Fixed((False,), "Mistral's attention has no biases"),
        "layer_types": Fixed((), "the window is that of every layer"),
        "mlp_bias": Fixed((False,), "its feed-forwards have no biases"),
    }
    relations = (
        Multiple("num_attention_heads", "num_key_value_heads"),
        Even("head_dim"),
    )
    tensors = names.ENDS | names.GQA | names.SWIGLU
    droppable = (names.INV_FREQ,)
