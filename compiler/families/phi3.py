"""Phi-3: a Llama whose checkpoints join queries, keys and values, and both halves of the gate."""

from __future__ import annotations

from ..spec.relations import Multiple
from . import names
from .family import Family
from .field import Field, Fixed, Ratio, Same
from .general import ACTIVATION
from .rope import RopeField

HEAD_DIM = Ratio("hidden_size", "num_attention_heads")
HEADS = Same("num_attention_heads")
ATTENTION, MLP = names.LAYER + "self_attn.", names.LAYER + "mlp."


class Phi3(Family):
    """Phi-3 and Phi-3.5 mini and medium (arXiv 2404.14219), Phi-4 and Phi-4-mini."""

    name = "phi3"
    blocks = {"layer": [{"norm": "rms", "use": "attention"}, {"norm": "rms", "use": "mlp"}]}
    parts = {
        "rms": {"kind": "rms_norm", "eps": Field("rms_norm_eps", "number", default=1e-5)},
        "attention": {
            "kind": "gqa",
            "heads": Field("num_attention_heads", default=32),
            "kv_heads": Field("num_key_value_heads", default=HEADS, null=HEADS),
            "head_dim": Field("head_dim", default=HEAD_DIM),
            "window": Field("sliding_window", default=None, null=None, unless=None),
            "rope": RopeField(part=1.0, kinds=("default", "longrope"), original=4096),
        },
        "mlp": {
            "kind": "swiglu",
            "width": Field("intermediate_size", default=8192),
            "activation": ACTIVATION,
        },
    }
    # The dropouts are training's alone; the published code reads neither of the two others.
    ignored = frozenset({"embd_pdrop", "full_attn_mod", "interpolate_factor", "resid_pdrop"})
    fixed = {
        "attention_bias": Fixed((False,), "its attention has no biases"),
        "lm_head_bias": Fixed((False,), "logits would have a bias"),
        "mlp_bias": Fixed((False,), "its feed-forwards have no biases"),
    }
    relations = (Multiple("num_attention_heads", "num_key_value_heads"),)
    tensors = names.ENDS | names.GQA | names.SWIGLU
    joined = {
        ATTENTION + "qkv_proj.weight": [ATTENTION + f"{x}_proj.weight" for x in "qkv"],
        MLP + "gate_up_proj.weight": [MLP + f"{x}_proj.weight" for x in ("gate", "up")],
    }
    droppable = (names.INV_FREQ,)
