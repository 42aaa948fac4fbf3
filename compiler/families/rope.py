"""Rotary embeddings: the two forms in which configurations describe them, and the spec's one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ..spec.diagnostics import accepted, quoted
from .field import Field, Mark, is_positive
from .scalings import GROWTHS, LISTS, OLDER, ORIGINAL, RATIO, SCALINGS, implied

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
    kinds        the kinds of scaling that the family knows
    original     the original number of positions of a configuration without it, where it stands
                 beside the other sizes; None: it stands in the scaling
    """

    theta: float = 10000.0
    interleaved: bool | Field = False
    otherwise: Mapping[str, object] | None = None
    part: float | None = None
    kinds: tuple[str, ...] = ("default", "linear", "yarn", "llama3")
    original: int | None = None

    def beside(self) -> set[str]:
        """Return the fields that it reads where the other sizes stand."""
        read = {PART.name: self.part, ORIGINAL.name: self.original}
        return {name for name, otherwise in read.items() if otherwise is not None}


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
    kind, *others = [_kind(given[name]) for name in names] or ["default"]
    if others and others[0] != kind:
        message = f"rope_type {quoted(kind)} and type {quoted(others[0])} disagree"
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
    if not isinstance(kind, str) or kind not in item.kinds:
        at = (place, names[0])
        help = accepted(kind, item.kinds, "kinds of scaling")
        problems.append(Problem(at, "E0307", f"rope scaling {quoted(kind)} is not supported", help))
        return {}, problems
    for field in SCALINGS[kind]:
        at = (place, field.name)
        if field is ORIGINAL and item.original is not None:
            at, wrong = (field.name,), _beside(config, given, place)
            found, problems = found | {field.name: config.get(*at, item.original)}, problems + wrong
        result[field.name] = _value(field, found, config, at, problems)
        found[field.name] = result[field.name]
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
    part = rope.get(PART.name)
    if part is None or (part == 1 and head_dim is None):
        return None
    assert isinstance(part, int | float)
    assert isinstance(head_dim, int)
    if part == 1 and head_dim % 2 == 0:
        return None
    columns = int(head_dim * part)
    if columns % 2 or not columns or columns / head_dim != part:
        raise ValueError(f"{PART.name} {quoted(part)} of head_dim {head_dim} is no number of pairs")
    return columns


def place(config: Mapping[str, object]) -> str:
    """Return the field that holds a configuration's rotary embedding, in one form or the other."""
    return _given(config)[0]


def is_long(rope: Mapping[str, object], config: Mapping[str, object]) -> bool:
    """Tell whether longrope uses its factors for contexts beyond the original one."""
    whole, original = config.get("max_position_embeddings"), rope.get(ORIGINAL.name)
    if rope.get("rope_type") != "longrope" or not is_positive(whole) or not is_positive(original):
        return False
    return whole > original


def misfits(rope: Mapping[str, object], head_dim: int) -> dict[str, str]:
    """Return which lists have not a factor for each pair that is rotated, and what is wrong."""
    pairs = (rotated(rope, head_dim) or head_dim) // 2
    lengths = {name: len(given) for name in LISTS if isinstance(given := rope.get(name), list)}
    return {
        name: f"{name} has {length} factors, {pairs} pairs of a head are rotated"
        for name, length in lengths.items()
        if length != pairs
    }


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
        value = list(value) if isinstance(value, tuple) else value
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
    if rope["rope_type"] in ("yarn", "longrope"):
        known["attention_factor"] = implied(rope)
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
    if value is None or (value == 0 and field.name in GROWTHS):
        value = field.default
    if value is Mark.REQUIRED and field is ORIGINAL:
        value = config.get("max_position_embeddings", Mark.REQUIRED)
    if value is Mark.REQUIRED and field is RATIO:
        whole, original = config.get("max_position_embeddings"), found.get(ORIGINAL.name)
        value = whole / original if is_positive(whole) and is_positive(original) else value
    if value is Mark.REQUIRED:
        problems.append(Problem(at, "E0305", f"{at[0]} lacks {quoted(field.name)}"))
    elif value is not None and (why := field.refusal(value)):
        problems.append(Problem(at, "E0306", f"{field.name} must be {why}, not {quoted(value)}"))
    return value


def _kind(given: object) -> object:
    """Return what a kind of scaling is called now."""
    return OLDER.get(given, given) if isinstance(given, str) else given


def _beside(config: Mapping[str, object], given: Mapping[str, object], place: str) -> list[Problem]:
    """Return what is wrong with an original number of positions that stands beside other sizes."""
    name = ORIGINAL.name
    outer, inner = config.get(name), given.get(name)
    if name in config and outer is None:
        message = f"{name} must be {ORIGINAL.refusal(outer)}, not {quoted(outer)}"
        return [Problem((name,), "E0306", message)]
    if None not in (outer, inner) and outer != inner:
        message = f"{name} is {quoted(outer)} and, in {place}, {quoted(inner)}"
        return [Problem((place, name), "E0308", message)]
    return []


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
        if kind == "yarn" and name == "attention_factor" and implied(rope) == value:
            continue
        message = f"{quoted(name)} is not a field of rope scaling {quoted(kind)}"
        help = accepted(name, known, "fields")
        if name in ("attention_factor", PART.name):
            message, help = f"{name} {quoted(value)} is not supported", "leave it out, or null"
        problems.append(Problem((place, name), "E0307", message, help))
    return problems


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value
