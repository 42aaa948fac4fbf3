"""Rotary position embeddings (Su et al. 2021, RoFormer) as fields of an attention."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from ..spec.fields import Positive, Several, Size, Whole, mistake
from ..spec.schema import Fields

if TYPE_CHECKING:
    from ..ir.dims import Dim
    from ..ir.graph import Value
    from .building.site import Site


class Linear(Fields):
    """Every frequency divided by `factor` (Chen et al. 2023, position interpolation)."""

    kind: Literal["linear"] = Field(description="the method of scaling")
    factor: Positive = Field(description="the ratio of the new context to the trained one")


class Yarn(Fields):
    """Slow frequencies divided, fast ones kept, a ramp between (Peng et al. 2023, YaRN)."""

    kind: Literal["yarn"] = Field(description="the method of scaling")
    factor: Positive = Field(description="the ratio of the new context to the trained one")
    original_max_positions: Whole = Field(description="how many tokens a trained context had")
    beta_fast: Positive = Field(
        32.0, description="the turns within a trained context from which a frequency is kept"
    )
    beta_slow: Positive = Field(
        1.0, description="the turns within a trained context up to which a frequency is divided"
    )
    mscale: Annotated[float, Field(ge=0)] | None = Field(
        None, description="the growth of the rotated vectors with the logarithm of factor"
    )
    mscale_all_dim: Annotated[float, Field(ge=0)] | None = Field(
        None, description="the growth of the attention's scale with the logarithm of factor"
    )
    truncate: bool = Field(True, description="whether the ends of the ramp are whole dimensions")

    @model_validator(mode="after")
    def _ramp(self) -> Self:
        if self.beta_fast <= self.beta_slow:
            message = f"beta_fast ({self.beta_fast:g}) must be above beta_slow ({self.beta_slow:g})"
            raise mistake("E0204", message, "the ramp runs from the slower to the faster turns")
        return self


class Llama3(Fields):
    """Frequencies divided by their wave length against the trained context (Llama 3.1)."""

    kind: Literal["llama3"] = Field(description="the method of scaling")
    factor: Positive = Field(description="the divisor of slow frequencies")
    original_max_positions: Whole = Field(description="how many tokens a trained context had")
    low_freq_factor: Positive = Field(
        description="the trained context over the wave length from which a frequency is divided"
    )
    high_freq_factor: Positive = Field(
        description="the trained context over the wave length up to which a frequency is kept"
    )

    @model_validator(mode="after")
    def _band(self) -> Self:
        low, high = self.low_freq_factor, self.high_freq_factor
        if high <= low:
            message = f"high_freq_factor ({high:g}) must be above low_freq_factor ({low:g})"
            raise mistake("E0204", message, "frequencies between the two are blended")
        return self


class Longrope(Fields):
    """Each frequency divided by a factor of its own (Ding et al. 2024, LongRoPE).

    By its `long_factor` where `max_positions` of the spec is above `original_max_positions`, else
    by its `short_factor`: one of the two at every length, so that what is cached stays right.
    """

    kind: Literal["longrope"] = Field(description="the method of scaling")
    original_max_positions: Whole = Field(description="how many tokens a trained context had")
    factor: Positive = Field(description="the ratio of the new context to the trained one")
    short_factor: Several[Positive] = Field(
        description="the divisor of each pair's frequency in a trained context"
    )
    long_factor: Several[Positive] = Field(
        description="the divisor of each pair's frequency in a longer one"
    )
    attention_factor: Positive | None = Field(
        None,
        description="the factor on rotated vectors, "
        "sqrt(1 + log(factor) / log(original_max_positions)) if left out",
    )

    @model_validator(mode="after")
    def _logarithm(self) -> Self:
        if self.original_max_positions == 1 and self.attention_factor is None and self.factor > 1:
            message = "original_max_positions (1) must be above 1 without attention_factor"
            raise mistake("E0204", message, "its logarithm divides")
        return self

    def gain(self) -> float:
        """The factor on cosine and sine (arXiv:2402.13753, section 3.3)."""
        if self.attention_factor is not None:
            return self.attention_factor
        if self.factor <= 1:
            return 1.0
        return math.sqrt(1 + math.log(self.factor) / math.log(self.original_max_positions))


Scaling = Annotated[Linear | Yarn | Llama3 | Longrope, Field(discriminator="kind")]


class Rope(Fields):
    """Pairs (a, b) of a vector turned by the angle position * theta ** (-2 i / dim).

    The pairs are (0, 1), (2, 3), ... where interleaved, else (i, i + dim / 2).
    """

    theta: Positive = Field(description="the base of the wave lengths")
    dim: Size | None = Field(None, description="how many dimensions are rotated, all if left out")
    interleaved: bool = Field(description="whether neighbours are rotated, or else the two halves")
    scaling: Scaling | None = Field(
        None, description="the stretch of a trained context to a longer one"
    )

    @model_validator(mode="after")
    def _waves(self) -> Self:
        if isinstance(self.scaling, Yarn) and self.theta <= 1:
            message = f"theta ({self.theta:g}) must be above 1 for yarn"
            raise mistake("E0204", message, "with 1 all pairs turn alike", at="theta")
        return self


def fit(rope: Rope | None, width: int) -> None:
    """Raise a mistake unless longrope, if any, has a factor for each pair of `width` columns."""
    if rope is None or not isinstance(rope.scaling, Longrope):
        return
    pairs = (rope.dim or width) // 2
    for name in ("short_factor", "long_factor"):
        if (count := len(getattr(rope.scaling, name))) != pairs:
            message = f"{name} has {count} factors, {pairs} pairs of columns are rotated"
            raise mistake("E0204", message, "each pair has a factor", at="rope")


def rotate(site: Site, rope: Rope, x: Value, dim: Dim, *, name: str = "rope") -> Value:
    """x [B, T, (H,) K] with its first `dim` columns rotated by the positions of its tokens."""
    cos, sin = _rotations(site, rope, dim)
    width = x.type.row[-1]
    if dim == width:
        whole: Value = site.op.rope(x, cos, sin, interleaved=rope.interleaved, name=name)
        return whole
    turned, rest = site.op.split(x, sizes=(dim, width - dim), name=("turned", "rest"))
    turned = site.op.rope(turned, cos, sin, interleaved=rope.interleaved)
    joined: Value = site.op.concat(turned, rest, name=name)
    return joined


def growth(rope: Rope) -> float:
    """What YaRN multiplies queries and keys by, both (arXiv:2309.00071, equation 22)."""
    if not isinstance(rope.scaling, Yarn):
        return 1.0
    return _mscale(rope.scaling.factor, rope.scaling.mscale_all_dim or 0.0)


def _rotations(site: Site, rope: Rope, dim: Dim) -> tuple[Value, Value]:
    """The cosine and sine for these positions, once in a block."""
    attributes: dict[str, Any] = {"width": dim, "theta": rope.theta, "dtype": site.dtype}
    if isinstance(rope.scaling, Longrope):
        scaling = rope.scaling
        long = site.building.spec.max_positions > scaling.original_max_positions
        factors = scaling.long_factor if long else scaling.short_factor
        attributes |= {"scaling": scaling.kind, "gain": scaling.gain(), "factors": factors}
    elif rope.scaling is not None:
        given = rope.scaling.model_dump(exclude={"kind", "mscale", "mscale_all_dim"})
        attributes |= {"scaling": rope.scaling.kind, "gain": _gain(rope), **given}
    wanted = site.building.ops["rotations"](**attributes)
    for node in site.graph.users(site.positions):
        if node.op == wanted:
            cos, sin = node.results
            return cos, sin
    return site.op.rotations(site.positions, **attributes, name=("cos", "sin"))  # type: ignore[no-any-return]


def _gain(rope: Rope) -> float:
    """The factor on cosine and sine: the part of YaRN's growth that the scale has not."""
    scaling = rope.scaling
    if not isinstance(scaling, Yarn):
        return 1.0
    if scaling.mscale and scaling.mscale_all_dim:
        whole = _mscale(scaling.factor, scaling.mscale)
        return whole / _mscale(scaling.factor, scaling.mscale_all_dim)
    return _mscale(scaling.factor, 1.0)


def _mscale(factor: float, mscale: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * mscale * math.log(factor) + 1.0
