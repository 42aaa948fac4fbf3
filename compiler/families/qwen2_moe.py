"""Qwen2-MoE: routed experts in most layers, and one for all tokens behind a gate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..spec.relations import AtMost, Even, Multiple
from . import names, windows
from .family import Family
from .field import LARGEST, Field, Ratio
from .general import ACTIVATION, FULL, SLIDING
from .rope import RopeField

HEAD_DIM = Ratio("hidden_size", "num_attention_heads")
SHARED = names.LAYER + "mlp.shared_expert."

ATTENTION = {
    "kind": "gqa",
    "heads": Field("num_attention_heads", default=16),
    "kv_heads": Field("num_key_value_heads", default=16),
    "head_dim": Field("head_dim", default=HEAD_DIM),
    "bias": Field(
        "qkv_bias", "flag", default=True, unless="none", words={True: "qkv", False: "none"}
    ),
    "rope": RopeField(theta=10000.0),
}


class Qwen2Moe(Family):
    """Qwen1.5-MoE and the mixture of experts of Qwen2 (arXiv 2407.10671)."""

    name = "qwen2_moe"
    blocks = {
        "dense": [{"norm": "rms", "use": "attention"}, {"norm": "rms", "use": "mlp"}],
        "sparse": [{"norm": "rms", "use": "attention"}, {"norm": "rms", "use": "experts"}],
        "local_dense": [{"norm": "rms", "use": "local"}, {"norm": "rms", "use": "mlp"}],
        "local_sparse": [{"norm": "rms", "use": "local"}, {"norm": "rms", "use": "experts"}],
    }
    parts = {
        "rms": {"kind": "rms_norm", "eps": Field("rms_norm_eps", "number", default=1e-6)},
        "attention": ATTENTION,
        "local": ATTENTION | {"window": Field("sliding_window", default=4096)},
        "mlp": {
            "kind": "swiglu",
            "width": Field("intermediate_size", default=5632),
            "activation": ACTIVATION,
        },
        "experts": {
            "kind": "moe",
            "experts": Field("num_experts", default=60),
            "top_k": Field("num_experts_per_tok", default=4),
            "width": Field("moe_intermediate_size", default=1408),
            "activation": ACTIVATION,
            "shared_width": Field("shared_expert_intermediate_size", default=5632),
            "shared_gate": True,
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
        *windows.SCHEDULE,
    )
    ignored = frozenset({"output_router_logits", "router_aux_loss_coef"})
    relations = (
        Multiple("num_attention_heads", "num_key_value_heads"),
        Even("head_dim"),
        AtMost("num_experts_per_tok", "num_experts"),
    )
    tensors = (
        names.ENDS
        | names.GQA
        | names.SWIGLU
        | names.MOE
        | {
            "moe.shared.gate": SHARED + "gate_proj.weight",
            "moe.shared.up": SHARED + "up_proj.weight",
            "moe.shared.down": SHARED + "down_proj.weight",
            "moe.shared.logit": names.LAYER + "mlp.shared_expert_gate.weight",
        }
    )
    droppable = (names.INV_FREQ,)

    def layers(self, values: Mapping[str, Any]) -> Sequence[str]:
        step, dense = values["decoder_sparse_step"], set(values["mlp_only_layers"])
        return [
            ("local_" if kind == SLIDING else "")
            + ("dense" if layer in dense or (layer + 1) % step else "sparse")
            for layer, kind in enumerate(_sights(values))
        ]

    def schedule_of(self, layers: Sequence[str]) -> dict[str, Any]:
        local = [layer for layer, block in enumerate(layers) if block.startswith("local_")]
        return {
            "decoder_sparse_step": 1,
            "mlp_only_layers": [i for i, block in enumerate(layers) if block.endswith("dense")],
            "use_sliding_window": bool(local),
            "max_window_layers": max(local, default=-1) + 1,
            "layer_types": [SLIDING if layer in local else FULL for layer in range(len(layers))],
        }

    def refusals(self, values: Mapping[str, Any]) -> Mapping[str, str]:
        return windows.refusals(values)


def _sights(values: Mapping[str, Any]) -> Sequence[str]:
    """What each layer attends to: as listed, else every other one of the first few to a window."""
    if values["layer_types"] is not None:
        return list(values["layer_types"])
    first = values["max_window_layers"] if values["use_sliding_window"] else 0
    return [
        SLIDING if layer < first and layer % 2 == 0 else FULL
        for layer in range(values["num_hidden_layers"])
    ]
