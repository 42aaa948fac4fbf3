"""`gpt_oss`: alternating windows, attention sinks, and biases and a clamp in its experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..spec.packed import Packed
from ..spec.relations import AtMost, Even, Multiple
from . import names
from .family import Family
from .field import Field, Fixed
from .general import ACTIVATION, FULL, LAYER_TYPES, SLIDING
from .rope import RopeField

EXPERTS = names.LAYER + "mlp.experts."
GATE_UP, DOWN = EXPERTS + "gate_up_proj", EXPERTS + "down_proj"

ATTENTION = {
    "kind": "gqa",
    "heads": Field("num_attention_heads", default=64),
    "kv_heads": Field("num_key_value_heads", default=8),
    "head_dim": Field("head_dim", default=64),
    "bias": Field(
        "attention_bias",
        "flag",
        default=True,
        unless="none",
        words={False: "none", True: "all"},
    ),
    "sinks": True,
    "rope": RopeField(
        theta=150000.0,
        otherwise={
            "rope_type": "yarn",
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "truncate": False,
        },
    ),
}


class GptOss(Family):
    """gpt-oss-20b and gpt-oss-120b (arXiv 2508.10925)."""

    name = "gpt_oss"
    blocks = {
        "sliding": [{"norm": "rms", "use": "local"}, {"norm": "rms", "use": "experts"}],
        "full": [{"norm": "rms", "use": "attention"}, {"norm": "rms", "use": "experts"}],
    }
    parts = {
        "rms": {"kind": "rms_norm", "eps": Field("rms_norm_eps", "number", default=1e-5)},
        "local": ATTENTION | {"window": Field("sliding_window", default=128)},
        "attention": ATTENTION,
        "experts": {
            "kind": "moe",
            "experts": Field("num_local_experts", default=128, aliases=("num_experts",)),
            "top_k": Field("num_experts_per_tok", default=4, aliases=("experts_per_token",)),
            "width": Field("intermediate_size", default=2880),
            "activation": ACTIVATION,
            "bias": True,
            "clamp": Field("swiglu_limit", "number", default=7.0),
            "alpha": Field("swiglu_alpha", "number", default=1.702, unless=1.0),
            "up_offset": 1.0,
            # The softmax over the chosen experts alone is that over all, normalized.
            "router": {"score": "softmax", "bias": True, "normalize": True, "scale": 1.0},
        },
    }
    schedule = (LAYER_TYPES,)
    types = {SLIDING: "sliding", FULL: "full"}
    ignored = frozenset({"initial_context_length", "output_router_logits", "router_aux_loss_coef"})
    fixed = {
        "hidden_act": Fixed(("silu",), "its experts have no other activation"),
    }
    relations = (
        Multiple("num_attention_heads", "num_key_value_heads"),
        Even("head_dim"),
        AtMost("num_experts_per_tok", "num_local_experts"),
    )
    tensors = (
        names.ENDS
        | names.GQA
        | names.MOE
        | {
            "gqa.sinks": names.LAYER + "self_attn.sinks",
            "moe.router": names.LAYER + "mlp.router.weight",
            "moe.logit_bias": names.LAYER + "mlp.router.bias",
            "moe.experts.gate_bias": EXPERTS + "{expert}.gate_proj.bias",
            "moe.experts.up_bias": EXPERTS + "{expert}.up_proj.bias",
            "moe.experts.down_bias": EXPERTS + "{expert}.down_proj.bias",
        }
    )
    packed = {
        EXPERTS + "{expert}.gate_proj.weight": Packed(GATE_UP, transposed=True, every=2, first=0),
        EXPERTS + "{expert}.up_proj.weight": Packed(GATE_UP, transposed=True, every=2, first=1),
        EXPERTS + "{expert}.down_proj.weight": Packed(DOWN, transposed=True),
        EXPERTS + "{expert}.gate_proj.bias": Packed(GATE_UP + "_bias", every=2, first=0),
        EXPERTS + "{expert}.up_proj.bias": Packed(GATE_UP + "_bias", every=2, first=1),
        EXPERTS + "{expert}.down_proj.bias": Packed(DOWN + "_bias"),
    }
    droppable = (names.INV_FREQ,)

    def unlisted(self, values: Mapping[str, Any]) -> Sequence[str]:
        return [FULL if i % 2 else SLIDING for i in range(values["num_hidden_layers"])]
