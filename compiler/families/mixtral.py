"""Mixtral: Llama's attention, maybe with a sliding window, and routed experts in every layer."""

from __future__ import annotations

from ..spec.relations import AtMost, Even, Multiple
from . import names
from .family import Family
from .field import Field, Fixed, Ratio, Same
from .general import ACTIVATION
from .rope import RopeField

EXPERT = names.LAYER + "block_sparse_moe.experts.{expert}."
HEAD_DIM = Ratio("hidden_size", "num_attention_heads")


class Mixtral(Family):
    """Mixtral of Experts (arXiv 2401.04088): the chosen experts' scores are normalized."""

    name = "mixtral"
    blocks = {"layer": [{"norm": "rms", "use": "attention"}, {"norm": "rms", "use": "experts"}]}
    parts = {
        "rms": {"kind": "rms_norm", "eps": Field("rms_norm_eps", "number", default=1e-5)},
        "attention": {
            "kind": "gqa",
            "heads": Field("num_attention_heads"),
            "kv_heads": Field("num_key_value_heads", default=8, null=Same("num_attention_heads")),
            "head_dim": Field("head_dim", default=HEAD_DIM, null=HEAD_DIM),
            "window": Field("sliding_window", default=None, null=None, unless=None),
            "rope": RopeField(theta=1000000.0),
        },
        "experts": {
            "kind": "moe",
            "experts": Field("num_local_experts", default=8, aliases=("num_experts",)),
            "top_k": Field("num_experts_per_tok", default=2),
            "width": Field("intermediate_size"),
            "activation": ACTIVATION,
            "router": {"score": "softmax", "normalize": True, "scale": 1.0},
        },
    }
    ignored = frozenset({"output_router_logits", "router_aux_loss_coef", "router_jitter_noise"})
    fixed = {
        "attention_bias": Fixed((False,), "Mixtral's attention has no biases"),
    }
    relations = (
        Multiple("num_attention_heads", "num_key_value_heads"),
        Even("head_dim"),
        AtMost("num_experts_per_tok", "num_local_experts"),
    )
    tensors = (
        names.ENDS
        | names.GQA
        | {
            "moe.router": names.LAYER + "block_sparse_moe.gate.weight",
            "moe.experts.gate": EXPERT + "w1.weight",
            "moe.experts.up": EXPERT + "w3.weight",
            "moe.experts.down": EXPERT + "w2.weight",
        }
    )
    droppable = (names.INV_FREQ,)
