"""Qwen3-MoE: normalized queries and keys, and routed experts in most layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..spec.relations import AtMost, Even, Multiple
from . import names
from .family import Family
from .field import LARGEST, Field, Fixed, Ratio
from .general import ACTIVATION, ATTENTION_BIAS
from .rope import RopeField

HEAD_DIM = Ratio("hidden_size", "num_attention_heads")


class Qwen3Moe(Family):
    """Qwen3's mixtures of experts (arXiv 2505.09388)."""

    name = "qwen3_moe"
    blocks = {
        "dense": [{"norm": "rms", "use": "attention"}, {"norm": "rms", "use": "mlp"}],
        "sparse": [{"norm": "rms", "use": "attention"}, {"norm": "rms", "use": "experts"}],
    }
    parts = {
        "rms": {"kind": "rms_norm", "eps": Field("rms_norm_eps", "number", default=1e-6)},
        "attention": {
            "kind": "gqa",
            "heads": Field("num_attention_heads"),
            "kv_heads": Field("num_key_value_heads", default=4),
            "head_dim": Field("head_dim", default=HEAD_DIM, null=HEAD_DIM),
            "qk_norm": "rms",
            "bias": ATTENTION_BIAS,
            "rope": RopeField(theta=10000.0),
        },
        "mlp": {
            "kind": "swiglu",
            "width": Field("intermediate_size"),
            "activation": ACTIVATION,
        },
        "experts": {
            "kind": "moe",
            "experts": Field("num_experts", default=128, aliases=("num_local_experts",)),
            "top_k": Field("num_experts_per_tok", default=8),
            "width": Field("moe_intermediate_size", default=768),
            "activation": ACTIVATION,
            "router": {
                "score": "softmax",
                "normalize": Field("norm_topk_prob", "flag", default=False),
                "scale": 1.0,
            },
        },
    }
    schedule = (
        Field("decoder_sparse_step", default=1),
        Field("mlp_only_layers", "layers", default=(), null=(), most=LARGEST),
    )
    ignored = frozenset(
        ["max_window_layers", "output_router_logits", "router_aux_loss_coef", "sliding_window"]
    )
    fixed = {
        "mlp_bias": Fixed((False,), "its feed-forwards have no biases"),
        "n_shared_experts": Fixed((0,), "it has no shared experts"),
        "use_sliding_window": Fixed(
            (False,), "which layers have a window differs between versions of transformers"
        ),
    }
    relations = (
        Multiple("num_attention_heads", "num_key_value_heads"),
        Even("head_dim"),
        AtMost("num_experts_per_tok", "num_experts"),
    )
    tensors = names.ENDS | names.GQA | names.SWIGLU | names.MOE
    droppable = (names.INV_FREQ,)

    def layers(self, values: Mapping[str, Any]) -> Sequence[str]:
        step, dense = values["decoder_sparse_step"], set(values["mlp_only_layers"])
        return [
            "dense" if layer in dense or (layer + 1) % step else "sparse"
            for layer in range(values["num_hidden_layers"])
        ]

    def schedule_of(self, layers: Sequence[str]) -> dict[str, Any]:
        dense = [layer for layer, block in enumerate(layers) if block == "dense"]
        return {"decoder_sparse_step": 1, "mlp_only_layers": dense}
