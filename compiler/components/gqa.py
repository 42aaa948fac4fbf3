"""Grouped-query attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ..spec.fields import NormName, Positive, Size
from ..spec.relations import AtMost, Even, Multiple, Small, When
from .component import Component
from .rope import Rope, fit, rotate

if TYPE_CHECKING:
    from ..ir.dims import Dim
    from ..ir.graph import Value
    from .building.site import Site


class Gqa(Component):
    """softmax(q k^T * scale) v, where `heads / kv_heads` query heads share a key and a value.

    Ainslie et al. 2023; `kv_heads = heads` is multi-head attention, `kv_heads = 1` multi-query.
    """

    kind: ClassVar[str] = "gqa"
    relations = (
        Multiple("heads", of="kv_heads"),
        AtMost("rope.dim", bound="head_dim"),
        Even("rope.dim"),
        When(Even("head_dim"), given="rope", missing="rope.dim"),
        Small("window"),
    )

    heads: Size = Field(description="how many query heads there are")
    kv_heads: Size = Field(description="how many heads of keys and values there are")
    head_dim: Size = Field(description="the width of a head")
    rope: Rope | None = Field(None, description="the rotation of queries and keys by position")
    qk_norm: NormName | None = Field(
        None, description="the norm of queries and keys, before the rotation"
    )
    qk_norm_over: Literal["head", "width"] = Field(
        "head", description="what that norm is over, each head or all of them as one row"
    )
    clip: Positive | None = Field(
        None, description="the bound of queries, keys and values, on both sides"
    )
    bias: Literal["none", "qkv", "o", "all"] = Field(
        "none", description="which projections have a bias, `all` being those of q, k, v and o"
    )
    scale: Positive | None = Field(
        None, description="the factor on scores, head_dim ** -0.5 if left out"
    )
    window: Size | None = Field(
        None, description="how many tokens back a query sees, itself included"
    )
    sinks: bool = Field(
        False, description="whether each head has a learned score that takes weight from the rest"
    )
    softcap: Positive | None = Field(
        None, description="the bound c of scores, as c * tanh(scores / c)"
    )

    tensors = {
        "q": "self_attn.q_proj.weight",
        "k": "self_attn.k_proj.weight",
        "v": "self_attn.v_proj.weight",
        "o": "self_attn.o_proj.weight",
        "q_bias": "self_attn.q_proj.bias",
        "k_bias": "self_attn.k_proj.bias",
        "v_bias": "self_attn.v_proj.bias",
        "o_bias": "self_attn.o_proj.bias",
        "q_norm": "self_attn.q_norm.weight",
        "k_norm": "self_attn.k_norm.weight",
        "sinks": "self_attn.sinks",
    }

    @model_validator(mode="after")
    def _factors(self) -> Self:
        fit(self.rope, self.head_dim)
        return self

    def build(self, site: Site, x: Value) -> Value:
        heads, kv_heads, width = site.dim("heads"), site.dim("kv_heads"), site.dim("head_dim")
        q = self._heads(site, x, "q", heads, self.qk_norm)
        k = self._heads(site, x, "k", kv_heads, self.qk_norm)
        v = self._heads(site, x, "v", kv_heads, None)
        if self.rope is not None:
            dim = width if self.rope.dim is None else site.dim("rope.dim")
            q = rotate(site, self.rope, q, dim, name="q")
            k = rotate(site, self.rope, k, dim, name="k")
        k, v = site.cached(k, "k"), site.cached(v, "v")
        operands = [q, k, v, site.positions]
        if self.sinks:
            operands.append(site.weight("sinks", heads))
        out = site.op.attend(
            *operands,
            scale=width.size**-0.5 if self.scale is None else self.scale,
            window=None if self.window is None else site.dim("window"),
            softcap=self.softcap,
            name="out",
        )
        return site.merge(out, "o", bias=self.bias in ("o", "all"))

    def _heads(self, site: Site, x: Value, role: str, heads: Dim, norm: str | None) -> Value:
        """The heads of a role [B, T, H, K]: projected, then normed and bound where that is so."""
        width, bias = site.dim("head_dim"), self.bias in ("qkv", "all")
        together = norm is not None and self.qk_norm_over == "width"
        if together:
            y = site.linear(x, role, heads * width, bias=bias, name=role)
        else:
            y = site.heads(x, role, heads, width, bias=bias, name=role)
        if norm is not None:
            y = site.apply(norm, f"{role}_norm", y, name=role)
        if self.clip is not None:
            y = site.op.clamp(y, low=-self.clip, high=self.clip, name=role)
        return site.op.unflatten(y, sizes=(heads, width), name=role) if together else y
