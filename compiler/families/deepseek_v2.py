"""DeepSeek-V2: latent attention, a few dense layers, then fine-grained and shared experts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..spec.diagnostics import Diagnostic
from ..spec.relations import AtMost, Even, Multiple
from ..spec.source import Source
from . import names
from .family import Family
from .field import Field, Fixed
from .general import ACTIVATION
from .rope import RopeField
from .table import With


class DeepseekV2(Family):
    """DeepSeek-V2 and V2-Lite (arXiv 2405.04434), as transformers computes them."""

    name = "deepseek_v2"
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
            "rope": RopeField(theta=10000.0, interleaved=True),
        },
        "mlp": {
            "kind": "swiglu",
            "width": Field("intermediate_size"),
            "activation": ACTIVATION,
        },
        "experts": {
            "kind": "moe",
            "experts": Field("n_routed_experts", default=64, aliases=("num_experts",)),
            "top_k": Field("num_experts_per_tok"),
            "width": Field("moe_intermediate_size", default=1407),
            "activation": ACTIVATION,
            "shared": Field("n_shared_experts", "count", default=2, null=0, unless=0),
            "router": {
                "score": "softmax",
                "wide": True,
                "groups": Field("n_group", default=None, null=None, unless=None),
                "top_groups": Field("topk_group", default=None, null=None, unless=None),
                "group_score": With("n_group", "max"),
                "normalize": False,
                "scale": Field("routed_scaling_factor", "number", default=1.0),
            },
        },
    }
    schedule = (Field("first_k_dense_replace", "count", default=0),)
    choices = (
        Field(
            "topk_method",
            "word",
            default="greedy",
            null="greedy",
            words={name: name for name in ("greedy", "group_limited_greedy")},
        ),
    )
    ignored = frozenset(
        [
            "aux_loss_alpha",
            "ep_size",
            "norm_topk_prob",
            "output_router_logits",
            "router_aux_loss_coef",
            "seq_aux",
        ]
    )
    fixed = {
        "mlp_bias": Fixed((False,), "shared experts with biases are not modelled"),
        "moe_layer_freq": Fixed((1,), "dense layers would stand between the sparse ones"),
        "rope_interleave": Fixed((True,), "its rotary pairs are neighbours"),
        "scoring_func": Fixed(("softmax",), "its router scores by softmax"),
    }
    derived = {
        "head_dim": ("qk_rope_head_dim",),
        "num_key_value_heads": ("num_attention_heads",),
        "qk_head_dim": ("qk_nope_head_dim", "qk_rope_head_dim"),
    }
    relations = (
        Even("qk_rope_head_dim"),
        AtMost("num_experts_per_tok", "n_routed_experts"),
        Multiple("n_routed_experts", "n_group"),
        AtMost("topk_group", "n_group"),
        AtMost("num_experts_per_tok", "topk_group", times=("n_routed_experts", "n_group")),
    )
    tensors = names.ENDS | names.MLA | names.SWIGLU | names.MOE | names.SHARED
    droppable = (names.INV_FREQ,)

    def layers(self, values: Mapping[str, Any]) -> Sequence[str]:
        count = values["num_hidden_layers"]
        dense = min(values["first_k_dense_replace"], count)
        return ["dense"] * dense + ["sparse"] * (count - dense)

    def schedule_of(self, layers: Sequence[str]) -> dict[str, Any]:
        return {"first_k_dense_replace": layers.count("dense")}

    def settle(self, values: dict[str, Any]) -> None:
        """Let groups stand for `group_limited_greedy`: the greedy method does not look at them."""
        for name in ("n_group", "topk_group"):
            if name in values:
                greedy = values.get("topk_method") == "greedy"
                values[name] = None if greedy else values[name] or 1

    def unsettle(self, fields: dict[str, Any]) -> None:
        if "n_group" not in fields:
            return
        greedy = fields["n_group"] is None
        fields["topk_method"] = "greedy" if greedy else "group_limited_greedy"
        if greedy:
            del fields["n_group"], fields["topk_group"]

    def warnings(self, config: Source) -> list[Diagnostic]:
        if not config.tree.get("norm_topk_prob"):
            return []
        message = (
            "norm_topk_prob is passed over: transformers never normalizes DeepSeek-V2's routing"
        )
        help = "write `normalize: true` in the router of the spec to normalize"
        span = config.value(("norm_topk_prob",))
        return [Diagnostic("E0310", message, span, help, severity="warning")]
