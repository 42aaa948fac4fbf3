"""A mixture of experts, fine-grained and shared."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal, Self

from pydantic import Field, model_validator

from ..ir.dims import ONE
from ..spec.fields import Amount, Count, Positive, Size, mistake
from ..spec.relations import AtMost, Multiple, Small, When
from ..spec.schema import Fields
from .component import Activation, Component
from .swiglu import gated

if TYPE_CHECKING:
    from ..ir.graph import Value
    from .building.site import Site


class Router(Fields):
    """How experts are chosen: `score` of the logits, plus a bias for the choice only."""

    score: Literal["softmax", "sigmoid", "sqrtsoftplus"] = Field(
        description="the function from logits to scores"
    )
    bias: bool = Field(False, description="whether logits have a bias")
    wide: bool = Field(False, description="whether its weight is kept in float32, or wider")
    selection_bias: bool = Field(
        False, description="whether a learned bias takes part in the choice, not in the weights"
    )
    groups: Size = Field(1, description="how many groups the experts are in")
    top_groups: Size = Field(1, description="how many groups each token may use")
    group_score: Literal["max", "top2_sum"] = Field(
        "max", description="what a group is judged by, its best score or its two best"
    )
    normalize: bool = Field(description="whether the weights of a token's experts sum to scale")
    scale: Positive = Field(1.0, description="the factor on the weights")


class Moe(Component):
    """y = shared(x) + sum of weight_e * expert_e(x) over the chosen experts (DeepSeekMoE, 2024).

    An expert is a swiglu of `width`, the shared one a swiglu of `shared * width` or `shared_width`,
    times sigmoid(w x) with `shared_gate`.
    """

    kind: ClassVar[str] = "moe"
    relations = (
        Small("experts"),
        Small("shared"),
        AtMost("top_k", bound="experts"),
        Multiple("experts", of="router.groups"),
        AtMost("router.top_groups", bound="router.groups"),
        AtMost("top_k", bound="experts", times=("router.top_groups", "router.groups")),
        When(
            Multiple("experts", of="router.groups", least=2),
            given="router.group_score",
            equals="top2_sum",
        ),
    )

    experts: Size = Field(description="how many experts there are")
    top_k: Size = Field(description="how many experts each token uses")
    width: Size = Field(description="the width of an expert's hidden layer")
    activation: Activation = Field("silu", description="the nonlinearity of the gate")
    bias: bool = Field(False, description="whether an expert's three projections have a bias")
    clamp: Positive | None = Field(
        None, description="the bound of the gate from above and of the other factor on both sides"
    )
    alpha: Positive = Field(
        1.0, description="the steepness of an activation a, as a(alpha * x) / alpha"
    )
    up_offset: Amount = Field(0.0, description="what is added to the other factor")
    shared: Count = Field(
        0, description="the width of what every token uses, in widths of an expert"
    )
    shared_width: Size | None = Field(
        None, description="the width of what every token uses, in place of `shared`"
    )
    shared_gate: bool = Field(
        False, description="whether each token has a learned share of what every token uses"
    )
    router: Router = Field(description="how experts are chosen")

    tensors = {
        "router": "mlp.gate.weight",
        "logit_bias": "mlp.gate.bias",
        "router_bias": "mlp.gate.e_score_correction_bias",
        "experts.gate": "mlp.experts.{expert}.gate_proj.weight",
        "experts.up": "mlp.experts.{expert}.up_proj.weight",
        "experts.down": "mlp.experts.{expert}.down_proj.weight",
        "experts.gate_bias": "mlp.experts.{expert}.gate_proj.bias",
        "experts.up_bias": "mlp.experts.{expert}.up_proj.bias",
        "experts.down_bias": "mlp.experts.{expert}.down_proj.bias",
        "shared.gate": "mlp.shared_experts.gate_proj.weight",
        "shared.up": "mlp.shared_experts.up_proj.weight",
        "shared.down": "mlp.shared_experts.down_proj.weight",
        "shared.gate_bias": "mlp.shared_experts.gate_proj.bias",
        "shared.up_bias": "mlp.shared_experts.up_proj.bias",
        "shared.down_bias": "mlp.shared_experts.down_proj.bias",
        "shared.logit": "mlp.shared_expert_gate.weight",
    }

    @model_validator(mode="after")
    def _one_width(self) -> Self:
        if self.shared and self.shared_width is not None:
            message = f"shared ({self.shared}) and shared_width are two widths of one part"
            raise mistake("E0204", message, "leave one of them out", at="shared_width")
        if self.shared_gate and not self.shared and self.shared_width is None:
            message = "shared_gate is a gate of nothing: no part is shared"
            raise mistake("E0204", message, "give shared_width, or shared", at="shared_gate")
        return self

    def build(self, site: Site, x: Value) -> Value:
        hidden, width, experts = site.hidden, site.dim("width"), site.dim("experts")
        index, weight = self._route(site, x)
        each = ("expert", experts)
        gate = site.weight("experts.gate", width, hidden, each=each)
        up = site.weight("experts.up", width, hidden, each=each)
        down = site.weight("experts.down", hidden, width, each=each)
        biases = []
        if self.bias:
            widths = {"gate": width, "up": width, "down": hidden}
            biases = [
                site.weight(f"experts.{n}_bias", size, each=each) for n, size in widths.items()
            ]
        routed: Value = site.op.experts(
            *(x, index, weight, gate, up, down, *biases),
            activation=self.activation,
            alpha=self.alpha,
            clamp=self.clamp,
            up_offset=self.up_offset,
            name="routed",
        )
        if not self.shared and self.shared_width is None:
            return routed
        total: Value = site.op.add(routed, self._shared(site, x))
        return total

    def _shared(self, site: Site, x: Value) -> Value:
        """What every token uses, maybe a share of it."""
        given = self.shared_width is not None
        wide = site.dim("shared_width") if given else site.dim("width") * site.dim("shared")
        gate = site.linear(x, "shared.gate", wide, bias=self.bias)
        up = site.linear(x, "shared.up", wide, bias=self.bias)
        hidden = gated(site, self, gate, up)
        shared = site.linear(hidden, "shared.down", site.hidden, bias=self.bias)
        if not self.shared_gate:
            return shared
        logit = site.linear(x, "shared.logit", ONE)
        share: Value = site.op.sigmoid_gate(shared, logit, name="shared")
        return share

    def _route(self, site: Site, x: Value) -> tuple[Value, Value]:
        """Each token's experts and their weights, chosen in float32 or wider."""
        router = self.router
        table = site.weight("router", site.dim("experts"), site.hidden, wide=router.wide)
        wide = site.op.widen(x), site.op.widen(table)
        product = site.op.einsum(*wide, equation="btd,ed->bte", name="logits")
        if router.bias:
            bias = site.op.widen(site.weight("logit_bias", site.dim("experts")))
            product = site.op.add(product, bias, name="logits")
        logits = [product]
        if router.selection_bias:
            logits.append(site.weight("router_bias", site.dim("experts"), wide=True))
        return site.op.route(  # type: ignore[no-any-return]
            *logits,
            score=router.score,
            top_k=site.dim("top_k"),
            groups=site.dim("router.groups"),
            top_groups=site.dim("router.top_groups"),
            group_score=router.group_score,
            normalize=router.normalize,
            scale=router.scale,
            name=("index", "weight"),
        )
