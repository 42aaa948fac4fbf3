"""OLMoE: queries and keys are normalized over all heads, and every layer has routed experts."""

from __future__ import annotations

from ..spec.relations import AtMost, Even, Multiple
from . import names
from .family import Family
from .field import Field, Ratio, Same
from .general import ACTIVATION, ATTENTION_BIAS
from .rope import RopeField

HEAD_DIM = Ratio("hidden_size", "num_attention_heads")
HEADS = Same("num_attention_heads")


class Olmoe(Family):
    """OLMoE (arXiv 2409.02060)."""

    name = "olmoe"
    blocks = {"layer": [{"norm": "rms", "use": "attention"}, {"norm": "rms", "use": "experts"}]}
    parts = {
        "rms": {"kind": "rms_norm", "eps": Field("rms_norm_eps", "number", default=1e-5)},
        "attention": {
            "kind": "gqa",
            "heads": Field("num_attention_heads", default=16),
            "kv_heads": Field("num_key_value_heads", default=HEADS, null=HEADS),
            "head_dim": Field("head_dim", default=HEAD_DIM, null=HEAD_DIM),
            "qk_norm": "rms",
            "qk_norm_over": "width",
            "clip": Field("clip_qkv", "number", default=None, null=None, unless=None),
            "bias": ATTENTION_BIAS,
            "rope": RopeField(theta=10000.0),
        },
        "experts": {
            "kind": "moe",
            "experts": Field("num_experts", default=64, aliases=("num_local_experts",)),
            "top_k": Field("num_experts_per_tok", default=8),
            "width": Field("intermediate_size", default=2048),
            "activation": ACTIVATION,
            "router": {
                "score": "softmax",
                "normalize": Field("norm_topk_prob", "flag", default=False),
                "scale": 1.0,
            },
        },
    }
    ignored = frozenset({"output_router_logits", "router_aux_loss_coef"})
    relations = (
        Multiple("num_attention_heads", "num_key_value_heads"),
        Even("head_dim"),
        AtMost("num_experts_per_tok", "num_experts"),
    )
    tensors = names.ENDS | names.GQA | names.MOE
    droppable = (names.INV_FREQ,)
