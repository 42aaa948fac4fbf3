"""Tensor names that Llama's checkpoints began with and most families kept, by role."""

from __future__ import annotations

LAYER = "model.layers.{layer}."

ENDS: dict[str, str] = {
    "embed": "model.embed_tokens.weight",
    "final_norm": "model.norm.weight",
    "head": "lm_head.weight",
    "norm.0": LAYER + "input_layernorm.weight",
    "norm.1": LAYER + "post_attention_layernorm.weight",
}
GQA: dict[str, str] = {
    "gqa.q": LAYER + "self_attn.q_proj.weight",
    "gqa.k": LAYER + "self_attn.k_proj.weight",
    "gqa.v": LAYER + "self_attn.v_proj.weight",
    "gqa.o": LAYER + "self_attn.o_proj.weight",
    "gqa.q_bias": LAYER + "self_attn.q_proj.bias",
    "gqa.k_bias": LAYER + "self_attn.k_proj.bias",
    "gqa.v_bias": LAYER + "self_attn.v_proj.bias",
    "gqa.o_bias": LAYER + "self_attn.o_proj.bias",
    "gqa.q_norm": LAYER + "self_attn.q_norm.weight",
    "gqa.k_norm": LAYER + "self_attn.k_norm.weight",
}
MLA: dict[str, str] = {
    "mla.q": LAYER + "self_attn.q_proj.weight",
    "mla.q_a": LAYER + "self_attn.q_a_proj.weight",
    "mla.q_a_bias": LAYER + "self_attn.q_a_proj.bias",
    "mla.q_a_norm": LAYER + "self_attn.q_a_layernorm.weight",
    "mla.q_b": LAYER + "self_attn.q_b_proj.weight",
    "mla.kv_a": LAYER + "self_attn.kv_a_proj_with_mqa.weight",
    "mla.kv_a_bias": LAYER + "self_attn.kv_a_proj_with_mqa.bias",
    "mla.kv_a_norm": LAYER + "self_attn.kv_a_layernorm.weight",
    "mla.kv_b": LAYER + "self_attn.kv_b_proj.weight",
    "mla.o": LAYER + "self_attn.o_proj.weight",
    "mla.o_bias": LAYER + "self_attn.o_proj.bias",
}
SWIGLU: dict[str, str] = {
    "swiglu.gate": LAYER + "mlp.gate_proj.weight",
    "swiglu.up": LAYER + "mlp.up_proj.weight",
    "swiglu.down": LAYER + "mlp.down_proj.weight",
    "swiglu.gate_bias": LAYER + "mlp.gate_proj.bias",
    "swiglu.up_bias": LAYER + "mlp.up_proj.bias",
    "swiglu.down_bias": LAYER + "mlp.down_proj.bias",
}
MLP: dict[str, str] = {
    "mlp.up": LAYER + "mlp.up_proj.weight",
    "mlp.down": LAYER + "mlp.down_proj.weight",
    "mlp.up_bias": LAYER + "mlp.up_proj.bias",
    "mlp.down_bias": LAYER + "mlp.down_proj.bias",
}
MOE: dict[str, str] = {
    "moe.router": LAYER + "mlp.gate.weight",
    "moe.experts.gate": LAYER + "mlp.experts.{expert}.gate_proj.weight",
    "moe.experts.up": LAYER + "mlp.experts.{expert}.up_proj.weight",
    "moe.experts.down": LAYER + "mlp.experts.{expert}.down_proj.weight",
}
SHARED: dict[str, str] = {
    "moe.shared.gate": LAYER + "mlp.shared_experts.gate_proj.weight",
    "moe.shared.up": LAYER + "mlp.shared_experts.up_proj.weight",
    "moe.shared.down": LAYER + "mlp.shared_experts.down_proj.weight",
}
INV_FREQ = "*.rotary_emb.inv_freq"
