"""Llama: grouped-query attention and one gated feed-forward a layer."""

from __future__ import annotations

from ..spec.relations import Even, Multiple
from . import names
from .family import Family
from .field import Field, Fixed, Ratio, Same
from .general import ACTIVATION, ATTENTION_BIAS
from .rope import RopeField

HEAD_DIM = Ratio("hidden_size", "num_attention_heads")
HEADS = Same("num_attention_heads")


class Llama(Family):
    """Llama 1 to 3.3, and the many checkpoints that are Llamas by another name."""

    name = "llama"
    blocks = {"layer": [{"norm": "rms", "use": "attention"}, {"norm": "rms", "use": "mlp"}]}
    parts = {
        "rms": {"kind": "rms_norm", "eps": Field("rms_norm_eps", "number", default=1e-6)},
        "attention": {
            "kind": "gqa",
            "heads": Field("num_attention_heads"),
            "kv_heads": Field("num_key_value_heads", default=HEADS, null=HEADS),
            "head_dim": Field("head_dim", default=HEAD_DIM, null=HEAD_DIM),
            "bias": ATTENTION_BIAS,
            "rope": RopeField(theta=10000.0),
        },
        "mlp": {
            "kind": "swiglu",
            "width": Field("intermediate_size"),
            "activation": ACTIVATION,
            "bias": Field("mlp_bias", "flag", default=False, unless=False),
        },
    }
    ignored = frozenset({"is_llama_config"})
    fixed = {
        "rope_interleaved": Fixed((False,), "neighbours would be rotated, not halves"),
        "sliding_window": Fixed((), "a Llama attends to the whole context"),
    }
    relations = (
        Multiple("num_attention_heads", "num_key_value_heads"),
        Even("head_dim"),
    )
    tensors = names.ENDS | names.GQA | names.SWIGLU
    droppable = (names.INV_FREQ,)
