"""DeepSeek-V3 and R1: V2's attention, with experts chosen by sigmoid scores and a learnt bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..spec.relations import AtMost, Even, Multiple
from . import names
from .family import Family
from .field import Field, Fixed
from .general import ACTIVATION
from .rope import RopeField
from .table import With


class DeepseekV3(Family):
    """DeepSeek-V3 (arXiv 2412.19437) and R1, with the layer that predicts one token further."""

    name = "deepseek_v3"
    blocks = {
        "dense": [{"norm": "rms", "use": "attention"}, {"norm": "rms", "use": "mlp"}],
        "sparse": [{"norm": "rms", "use": "attention"}, {"norm": "rms", "use": "experts"}],
    }
    parts = {
        "rms": {"kind": "rms_norm", "eps": Field("rms_norm_eps", "number", default=1e-6)},
        # The norms inside attention do not follow `rms_norm_eps`.
        "latent_rms": {"kind": "rms_norm", "eps": 1e-6},
        "attention": {
            "kind": "mla",
            "heads": Field("num_attention_heads"),
            "q_lora_rank": Field("q_lora_rank", default=1536, null=None, unless=None),
            "kv_lora_rank": Field("kv_lora_rank", default=512),
            "qk_nope_head_dim": Field("qk_nope_head_dim", default=128),
            "qk_rope_head_dim": Field("qk_rope_head_dim", default=64),
            "v_head_dim": Field("v_head_dim", default=128),
            "norm": "latent_rms",
            "bias": Field("attention_bias", "flag", default=False, unless=False),
            "rope": RopeField(
                theta=10000.0,
                interleaved=Field("rope_interleave", "flag", default=True, null=False),
            ),
        },
        "mlp": {
            "kind": "swiglu",
            "width": Field("intermediate_size"),
            "activation": ACTIVATION,
        },
        "experts": {
            "kind": "moe",
            "experts": Field("n_routed_experts", default=256, aliases=("num_local_experts",)),
            "top_k": Field("num_experts_per_tok", default=8),
            "width": Field("moe_intermediate_size", default=2048),
            "activation": ACTIVATION,
            "shared": Field("n_shared_experts", "count", default=1, null=0, unless=0),
            "router": {
                "score": "sigmoid",
                "wide": True,
                "selection_bias": True,
                "groups": Field("n_group", default=8, null=1, unless=1),
                "top_groups": Field("topk_group", default=4, null=1, unless=1),
                "group_score": With("n_group", "top2_sum"),
                "normalize": Field("norm_topk_prob", "flag", default=True, null=False),
                "scale": Field("routed_scaling_factor", "number", default=2.5),
            },
        },
    }
    schedule = (Field("first_k_dense_replace", "count", default=3),)
    ignored = frozenset(
        [
            "aux_loss_alpha",
            "ep_size",
            "num_mtp_layers",
            "num_nextn_predict_layers",
            "output_router_logits",
            "router_aux_loss_coef",
            "seq_aux",
        ]
    )
    fixed = {
        "mlp_bias": Fixed((False,), "its feed-forwards have no biases"),
        "moe_layer_freq": Fixed((1,), "dense layers would stand between the sparse ones"),
        "scoring_func": Fixed(("sigmoid",), "its router scores by sigmoid"),
        "topk_method": Fixed(("noaux_tc",), "its router chooses by score and bias"),
    }
    derived = {
        "head_dim": ("qk_rope_head_dim",),
        "num_key_value_heads": ("num_attention_heads",),
        "qk_head_dim": ("qk_nope_head_dim", "qk_rope_head_dim"),
    }
    relations = (
        Even("qk_rope_head_dim"),
        AtMost("num_experts_per_tok", "n_routed_experts"),
        Multiple("n_routed_experts", "n_group", least=2),
        AtMost("topk_group", "n_group"),
        AtMost("num_experts_per_tok", "topk_group", times=("n_routed_experts", "n_group")),
    )
    tensors = (
        names.ENDS
        | names.MLA
        | names.SWIGLU
        | names.MOE
        | names.SHARED
        | {"moe.router_bias": names.LAYER + "mlp.gate.e_score_correction_bias"}
    )
    # A layer past the last predicts one token further, and is dropped where it is not asked for.
    mtp = {"block": "sparse", "norm": "rms"}
    droppable = (names.INV_FREQ, "model.layers.{layers}.*")

    def layers(self, values: Mapping[str, Any]) -> Sequence[str]:
        count = values["num_hidden_layers"]
        dense = min(values["first_k_dense_replace"], count)
        return ["dense"] * dense + ["sparse"] * (count - dense)

    def schedule_of(self, layers: Sequence[str]) -> dict[str, Any]:
        return {"first_k_dense_replace": layers.count("dense")}
