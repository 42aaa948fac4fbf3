"""Which layers have a window, by the fields that Qwen2 and those after it say so with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .field import Field
from .general import FULL, LAYER_TYPES, SLIDING

SCHEDULE = (
    Field("use_sliding_window", "flag", default=False),
    Field("max_window_layers", "count", default=28),
    LAYER_TYPES,
)
TYPES = {SLIDING: "sliding", FULL: "full"}


def unlisted(values: Mapping[str, Any]) -> Sequence[str]:
    """Return the types of layers where none are listed: a window from `max_window_layers` on."""
    count = values["num_hidden_layers"]
    first = values["max_window_layers"] if values["use_sliding_window"] else count
    return [SLIDING if layer >= first else FULL for layer in range(count)]


def schedule_of(types: Sequence[str]) -> dict[str, Any]:
    """Return the fields of SCHEDULE for the types of layers."""
    first = types.index(SLIDING) if SLIDING in types else len(types)
    return {
        "use_sliding_window": first < len(types),
        "max_window_layers": first,
        "layer_types": list(types),
    }


def refusals(values: Mapping[str, Any]) -> Mapping[str, str]:
    """Return what is wrong where windows are listed that another field denies."""
    if SLIDING in (values["layer_types"] or ()) and not values["use_sliding_window"]:
        return {"layer_types": "layer_types has windows, use_sliding_window says there are none"}
    return {}
