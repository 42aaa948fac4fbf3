"""GLM-4.5: heads that are rotated in part, and experts chosen by sigmoid scores and a bias."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..spec.relations import AtMost, Multiple
from . import names
from .family import Family
from .field import Field, Ratio
from .general import ACTIVATION
from .rope import RopeField
from .table import With

HEAD_DIM = Ratio("hidden_size", "num_attention_heads")


class Glm4Moe(Family):
    """GLM-4.5 and 4.6 (arXiv 2508.06471), without the layers that predict further tokens."""

    name = "glm4_moe"
    blocks = {
        "dense": [{"norm": "rms", "use": "attention"}, {"norm": "rms", "use": "mlp"}],
        "sparse": [{"norm": "rms", "use": "attention"}, {"norm": "rms", "use": "experts"}],
    }
    parts = {
        "rms": {"kind": "rms_norm", "eps": Field("rms_norm_eps", "number", default=1e-5)},
        "attention": {
            "kind": "gqa",
            "heads": Field("num_attention_heads", default=96),
            "kv_heads": Field("num_key_value_heads", default=8),
            "head_dim": Field("head_dim", default=HEAD_DIM),
            "qk_norm": Field(
                "use_qk_norm", "flag", default=False, unless=None, words={False: None, True: "rms"}
            ),
            "bias": Field(
                "attention_bias",
                "flag",
                default=False,
                unless="none",
                words={False: "none", True: "qkv"},
            ),
            "rope": RopeField(theta=10000.0, part=0.5),
        },
        "mlp": {
            "kind": "swiglu",
            "width": Field("intermediate_size", default=10944),
            "activation": ACTIVATION,
        },
        "experts": {
            "kind": "moe",
            "experts": Field("n_routed_experts", default=128, aliases=("num_local_experts",)),
            "top_k": Field("num_experts_per_tok", default=8),
            "width": Field("moe_intermediate_size", default=1408),
            "activation": ACTIVATION,
            "shared": Field("n_shared_experts", "count", default=1, unless=0),
            "router": {
                "score": "sigmoid",
                "wide": True,
                "selection_bias": True,
                "groups": Field("n_group", default=1, unless=1),
                "top_groups": Field("topk_group", default=1, unless=1),
                "group_score": With("n_group", "top2_sum"),
                "normalize": Field("norm_topk_prob", "flag", default=True),
                "scale": Field("routed_scaling_factor", "number", default=1.0),
            },
        },
    }
    schedule = (Field("first_k_dense_replace", "count", default=1),)
    ignored = frozenset(
        [
            "num_mtp_layers",
            "num_nextn_predict_layers",
            "output_router_logits",
            "router_aux_loss_coef",
        ]
    )
    relations = (
        Multiple("num_attention_heads", "num_key_value_heads"),
        AtMost("num_experts_per_tok", "n_routed_experts"),
        Multiple("n_routed_experts", "n_group", least=2),
        AtMost("topk_group", "n_group"),
        AtMost("num_experts_per_tok", "topk_group", times=("n_routed_experts", "n_group")),
    )
    tensors = (
        names.ENDS
        | names.GQA
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
