"""Scalings of rotary embeddings in configurations: the fields of each kind, and what they imply."""

from __future__ import annotations

import math
from collections.abc import Mapping

from .field import Field, is_positive

# What each kind of scaling is given, in the spec's order. Without an original number of positions
# it is `max_position_embeddings`; a null is an absent field, as in transformers.
FACTOR = Field("factor", "number")
ORIGINAL = Field("original_max_position_embeddings")
RATIO = Field("factor", "number")  # of `max_position_embeddings` to the original where it is absent
LISTS = ("short_factor", "long_factor")
SCALINGS: Mapping[str, tuple[Field, ...]] = {
    "default": (),
    "linear": (FACTOR,),
    "yarn": (
        FACTOR,
        ORIGINAL,
        Field("beta_fast", "number", default=32),
        Field("beta_slow", "number", default=1),
        Field("mscale", "number", default=None),
        Field("mscale_all_dim", "number", default=None),
        Field("truncate", "flag", default=True),
    ),
    "llama3": (
        FACTOR,
        ORIGINAL,
        Field("low_freq_factor", "number"),
        Field("high_freq_factor", "number"),
    ),
    "longrope": (
        ORIGINAL,
        RATIO,
        *(Field(name, "numbers") for name in LISTS),
        Field("attention_factor", "number", default=None),
    ),
}
GROWTHS = ("mscale", "mscale_all_dim")  # of which zero is none
OLDER = {"su": "longrope"}  # names that kinds had before


def implied(rope: Mapping[str, object]) -> float | None:
    """Return the factor on cosine and sine that a scaling's other fields imply, None of ill ones.

    Of yarn, arXiv 2309.00071, section 3.4; of longrope, arXiv 2402.13753, section 3.3.
    """
    factor, original = rope["factor"], rope[ORIGINAL.name]
    one, other = rope.get("mscale"), rope.get("mscale_all_dim")
    if not is_positive(factor) or not is_positive(original):
        return None
    if rope["rope_type"] == "longrope":
        if factor <= 1 or original <= 1:
            return 1.0
        return math.sqrt(1 + math.log(factor) / math.log(original))
    if is_positive(one) and is_positive(other):
        return _mscale(factor, one) / _mscale(factor, other)
    return _mscale(factor, 1)


def _mscale(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0
