"""Rotary embeddings: the two forms in which configurations describe them, and the spec's one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from ..spec.diagnostics import accepted, quoted
from .field import Field, Mark

# What each kind of scaling is given, in the spec's order. Without an original number of positions
# it is `max_position_embeddings`; a null is an absent field, as in transformers.
FACTOR = Field("factor", "number")
ORIGINAL = Field("original_max_position_embeddings")
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
}
SPEC_NAMES = {"original_max_position_embeddings": "original_max_positions"}
THETA = Field("rope_theta", "number")
PART = Field("partial_rotary_factor", "number")


@dataclass(frozen=True)
class RopeField:
    """Where a family's spec holds its rotary embedding.

    theta        Hugging Face's default for the family
    interleaved  true, false, or the field that says so
    otherwise    what a configuration means that has neither of the two forms
    part         how much of a head is rotated where it does not say so; None: always all of it
    """

    theta: float = 10000.0
    interleaved: bool | Field = False
    otherwise: Mapping[str, object] | None = None
    part: float | None = None


@dataclass(frozen=True)
class Problem:
    """A mistake in a rotary embedding: the field's path in the configuration, and what is wrong."""

    path: tuple[str, ...]
    code: str
    message: str
    help: str | None = None


def normalize(
    config: Mapping[str, object], item: RopeField
) -> tuple[dict[str, object], list[Problem]]:
    """Return a configuration's rotary embedding in one form, every field explicit, and mistakes.

    The form is that of `rope_parameters`: rope_theta, rope_type, and the fields of that type.
    """
    place, given, problems = _given(config)
    given = given or item.otherwise or {}
    names = [name for name in ("rope_type", "type") if given.get(name) is not None]
    kind = given[names[0]] if names else "default"
    if len(names) == 2 and given["type"] != kind:
        message = f"rope_type {quoted(kind)} and type {quoted(given['type'])} disagree"
        problems.append(Problem((place, "type"), "E0308", message))
    outer, inner = config.get("rope_theta"), given.get("rope_theta")
    if None not in (outer, inner) and outer != inner:
        message = f"rope_theta is {quoted(outer)} and, in {place}, {quoted(inner)}"
        problems.append(Problem((place, "rope_theta"), "E0308", message))
    theta = next((x for x in (inner, outer) if x is not None), item.theta)
    found = {**given, "rope_theta": theta}
    result: dict[str, object] = {"rope_theta": found["rope_theta"], "rope_type": kind}
    if why := THETA.refusal(found["rope_theta"]):
        at = ("rope_theta",) if inner is None else (place, "rope_theta")
        problems.append(Problem(at, "E0306", f"rope_theta must be {why}"))
    if not isinstance(kind, str) or kind not in SCALINGS:
        at = (place, names[0])
        help = accepted(kind, SCALINGS, "kinds of scaling")
        problems.append(Problem(at, "E0307", f"rope scaling {quoted(kind)} is not supported", help))
        return {}, problems
    for field in SCALINGS[kind]:
        result[field.name] = _value(field, found, config, (place, field.name), problems)
    if item.part is not None:
        part, wrong = _part(config, given, place, item.part)
        result, problems = result | {PART.name: part}, problems + wrong
    problems += _unknown(kind, given, place, result)
    if problems:
        return {}, problems
    return {name: _whole(value) for name, value in result.items() if value is not None}, []


def rotated(rope: Mapping[str, object], head_dim: object) -> int | None:
    """Return how many columns of a head are rotated, None where it is all of them.

    Raises ValueError where these are no pairs.
    """
    part = rope.get(PART.name, 1)
    if part == 1:
        return None
    assert isinstance(part, int | float)
    assert isinstance(head_dim, int)
    columns = int(head_dim * part)
    if columns % 2 or not columns or columns / head_dim != part:
        raise ValueError(f"{PART.name} {quoted(part)} of head_dim {head_dim} is no number of pairs")
    return columns


def to_spec(
    rope: Mapping[str, object], interleaved: object, head_dim: object = None
) -> dict[str, object]:
    """Return a spec's `rope:` for the normal form of a configuration's."""
    spec = {"theta": rope["rope_theta"]}
    if (columns := rotated(rope, head_dim)) is not None:
        spec["dim"] = columns
    spec["interleaved"] = interleaved
    fields = SCALINGS[str(rope["rope_type"])]
    if fields:
        spec["scaling"] = {"kind": rope["rope_type"]} | {
            SPEC_NAMES.get(field.name, field.name): rope[field.name]
            for field in fields
            if rope.get(field.name, field.default) != field.default
        }
    return spec


def from_spec(spec: Mapping[str, object]) -> dict[str, object]:
    """Return the normal form of a configuration's rotary embedding for a spec's `rope:`."""
    scaling = spec.get("scaling") or {"kind": "default"}
    assert isinstance(scaling, Mapping)
    rope = {"rope_theta": spec["theta"], "rope_type": scaling["kind"]}
    for field in SCALINGS.get(str(scaling["kind"]), ()):
        value = scaling.get(SPEC_NAMES.get(field.name, field.name))
        rope[field.name] = field.default if value is None else value
    return {name: value for name, value in rope.items() if not isinstance(value, Mark | None)}


def part_of(spec: Mapping[str, object], head_dim: object) -> dict[str, object]:
    """Return the field that says how much of a head is rotated in a spec's `rope:`."""
    columns = spec.get("dim") or head_dim
    assert isinstance(columns, int)
    assert isinstance(head_dim, int)
    return {PART.name: _whole(columns / head_dim)}


def neutral(rope: Mapping[str, object], part: float | None = None) -> dict[str, object]:
    """Return what each field that a configuration may leave out means beside these of `rope`.

    `part` is that of the RopeField.
    """
    fields = SCALINGS[str(rope["rope_type"])]
    known = {f.name: f.default for f in fields if not isinstance(f.default, Mark | None)}
    if rope["rope_type"] == "yarn":
        known["attention_factor"] = _implied({"mscale": 0, "mscale_all_dim": 0, **rope})
    return {**known, PART.name: 1 if part is None else part}


def _given(config: Mapping[str, object]) -> tuple[str, Mapping[str, object], list[Problem]]:
    """Return the name and the fields of the form that the configuration uses."""
    forms: dict[str, Mapping[str, object]] = {}
    problems = []
    for name in ("rope_scaling", "rope_parameters"):
        value = config.get(name)
        if isinstance(value, Mapping):
            forms[name] = value
        elif value is not None:
            message = f"{name} must be an object or null, not {quoted(value)}"
            problems.append(Problem((name,), "E0306", message))
    used = [name for name, value in forms.items() if value]
    if len(used) == 2 and forms[used[0]] != forms[used[1]]:
        message = "rope_scaling and rope_parameters disagree"
        problems.append(Problem((used[1],), "E0308", message, "leave one of them out"))
    place = used[0] if used else "rope_parameters"
    return place, forms.get(place, {}), problems


def _value(
    field: Field,
    found: Mapping[str, object],
    config: Mapping[str, object],
    at: tuple[str, ...],
    problems: list[Problem],
) -> object:
    value = found.get(field.name)
    if value is None or (value == 0 and field.default is None):
        value = field.default
    if value is Mark.REQUIRED and field is ORIGINAL:
        value = config.get("max_position_embeddings", Mark.REQUIRED)
    if value is Mark.REQUIRED:
        problems.append(Problem(at, "E0305", f"{at[0]} lacks {quoted(field.name)}"))
    elif value is not None and (why := field.refusal(value)):
        problems.append(Problem(at, "E0306", f"{field.name} must be {why}, not {quoted(value)}"))
    return value


def _part(
    config: Mapping[str, object], given: Mapping[str, object], place: str, otherwise: float
) -> tuple[object, list[Problem]]:
    """Return how much of a head is rotated, which stands in either place, and mistakes."""
    outer, inner = config.get(PART.name), given.get(PART.name)
    at = (PART.name,) if inner is None else (place, PART.name)
    part = next((x for x in (inner, outer) if x is not None), otherwise)
    if None not in (outer, inner) and outer != inner:
        message = f"{PART.name} is {quoted(outer)} and, in {place}, {quoted(inner)}"
        return part, [Problem(at, "E0308", message)]
    null = any(PART.name in form and form[PART.name] is None for form in (config, given))
    if null or PART.refusal(part) or part > 1:  # type: ignore[operator]
        return part, [Problem(at, "E0306", f"{PART.name} must be a number above 0, up to 1")]
    return part, []


def _unknown(
    kind: str, given: Mapping[str, object], place: str, rope: Mapping[str, object]
) -> list[Problem]:
    known = {field.name for field in SCALINGS[kind]} | {"rope_type", "type", "rope_theta"}
    known |= rope.keys() & {PART.name}
    problems = []
    for name in sorted(given.keys() - known):
        value = given[name]
        if value is None or (name == PART.name and value == 1):
            continue
        if kind == "yarn" and name == "attention_factor" and _implied(rope) == value:
            continue
        message = f"{quoted(name)} is not a field of rope scaling {quoted(kind)}"
        help = accepted(name, known, "fields")
        if name in ("attention_factor", PART.name):
            message, help = f"{name} {quoted(value)} is not supported", "leave it out, or null"
        problems.append(Problem((place, name), "E0307", message, help))
    return problems


def _implied(rope: Mapping[str, object]) -> float | None:
    """Return the factor of yarn on cosine and sine (arXiv 2309.00071, section 3.4)."""

    def mscale(weight: object) -> float:
        factor = rope["factor"]
        assert isinstance(factor, int | float)
        assert isinstance(weight, int | float)
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    try:
        if rope["mscale"] and rope["mscale_all_dim"]:
            return mscale(rope["mscale"]) / mscale(rope["mscale_all_dim"])
        return mscale(1)
    except AssertionError:
        return None


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value
