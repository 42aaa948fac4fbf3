"""Multi-head latent attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Self

from pydantic import Field, model_validator

from ..spec.fields import NormName, Positive, Size
from ..spec.relations import Equal, Even
from .component import Component
from .rope import Rope, fit, growth, rotate

if TYPE_CHECKING:
    from ..ir.graph import Value
    from .building.site import Site


class Mla(Component):
    """Attention whose keys and values come from one latent per token (DeepSeek-V2, 2024).

    c = norm(W_a x);  k = [W_k c, rope(W_r x)];  v = W_v c
    q = [W_q x, rope(W_qr x)], or the same of norm(W_qa x) with `q_lora_rank`
    """

    kind: ClassVar[str] = "mla"
    relations = (Even("qk_rope_head_dim"), Equal("rope.dim", other="qk_rope_head_dim"))

    heads: Size = Field(description="how many heads there are")
    q_lora_rank: Size | None = Field(
        None, description="the width of the query's latent, no latent if left out"
    )
    kv_lora_rank: Size = Field(description="the width of the latent of keys and values")
    qk_nope_head_dim: Size = Field(description="the width of a head's query that is not rotated")
    qk_rope_head_dim: Size = Field(description="the width of a head's query that is rotated")
    v_head_dim: Size = Field(description="the width of a head's value")
    rope: Rope = Field(description="the rotation of queries and keys by position")
    norm: NormName = Field(description="the norm of the latents")
    bias: bool = Field(
        False, description="whether the projections to the latents and of the output have a bias"
    )
    scale: Positive | None = Field(
        None,
        description="the factor on scores, (qk_nope_head_dim + qk_rope_head_dim) ** -0.5"
        " and YaRN's growth of it if left out",
    )

    tensors = {
        "q": "self_attn.q_proj.weight",
        "q_a": "self_attn.q_a_proj.weight",
        "q_a_bias": "self_attn.q_a_proj.bias",
        "q_a_norm": "self_attn.q_a_layernorm.weight",
        "q_b": "self_attn.q_b_proj.weight",
        "kv_a": "self_attn.kv_a_proj_with_mqa.weight",
        "kv_a_bias": "self_attn.kv_a_proj_with_mqa.bias",
        "kv_a_norm": "self_attn.kv_a_layernorm.weight",
        "kv_b": "self_attn.kv_b_proj.weight",
        "o": "self_attn.o_proj.weight",
        "o_bias": "self_attn.o_proj.bias",
    }

    @model_validator(mode="after")
    def _factors(self) -> Self:
        fit(self.rope, self.qk_rope_head_dim)
        return self

    def build(self, site: Site, x: Value) -> Value:
        heads, rank = site.dim("heads"), site.dim("kv_lora_rank")
        nope, turned = site.dim("qk_nope_head_dim"), site.dim("qk_rope_head_dim")
        value = site.dim("v_head_dim")

        if self.q_lora_rank is None:
            q = site.heads(x, "q", heads, nope + turned, name="q")
        else:
            latent = site.linear(x, "q_a", site.dim("q_lora_rank"), bias=self.bias, name="q_latent")
            latent = site.apply(self.norm, "q_a_norm", latent, name="q_latent")
            q = site.heads(latent, "q_b", heads, nope + turned, name="q")
        q_nope, q_rope = site.op.split(q, sizes=(nope, turned), name=("q_nope", "q_rope"))
        q = site.op.concat(q_nope, rotate(site, self.rope, q_rope, turned), name="q")

        both = site.linear(x, "kv_a", rank + turned, bias=self.bias)
        latent, k_rope = site.op.split(both, sizes=(rank, turned), name=("latent", "k_rope"))
        latent = site.apply(self.norm, "kv_a_norm", latent, name="latent")
        k_rope = rotate(site, self.rope, k_rope, turned, name="k_rope")
        both = site.heads(latent, "kv_b", heads, nope + value)
        k_nope, v = site.op.split(both, sizes=(nope, value), name=("k_nope", "v"))
        k = site.op.concat(k_nope, site.op.expand(k_rope, count=heads), name="k")

        k, v = site.cached(k, "k"), site.cached(v, "v")
        scale = self.scale or (nope + turned).size ** -0.5 * growth(self.rope) ** 2
        out = site.op.attend(q, k, v, site.positions, scale=scale, name="out")
        return site.merge(out, "o", bias=self.bias)
